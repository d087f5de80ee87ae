--- The keeper: does what only the clock asks for. Expiry, trimming, bytes that may go, reconciling store and rows.
--
-- Each part works in small batches, each a short transaction, and so many of them in a round; what is left is for the
-- next round, which then comes sooner. Any number of hosts may run one: the one that holds the lock works, the others
-- wait for it to end. Nothing rests on that lock but economy: every part is safe beside itself and beside workers.
-- Owns the order, the schedule and the way back to a lost database. What concerns the store is workflow.sweep's.
-- @module workflow.keeper
local backoff = require "workflow.backoff"
local chores = require "workflow.chores"
local clock = require "clock"
local log = require "log"

local M = {}
local Keeper = {}
Keeper.__index = Keeper

local BATCH, BATCHES = 1000, 10
local SOON = 1          -- seconds until a round that has more to do

-- Where the database says that session locks mean nothing (behind a transaction pooler), each keeper works.
local LOCK = [[select coalesce(current_setting('atelier.worker_lock', true), '') = 'off'
  or pg_try_advisory_lock(hashtextextended('atelier keeper', 0)) as mine]]
local UNLOCK = "select pg_advisory_unlock(hashtextextended('atelier keeper', 0))"

--- A new keeper.
-- @tparam table options conn (database), store, config; optional: connect(), which gives a new connection or nil,
--   message, code, when the first is lost; on_tick(), called about each second while `serve` waits, and before each
--   batch of a round, which may have many; batch and batches (rows at once, and how often in a round), heads, settle
--   (see workflow.sweep)
-- @treturn table keeper
function M.new(options)
  local self = setmetatable({
    conn = options.conn,
    connect = options.connect,
    config = options.config,
    on_tick = options.on_tick or function() end,
    stopping = false,
    pauses = 0,
  }, Keeper)
  options.store.on_wait = self.on_tick
  self.parts, self.sweep = chores.new { store = options.store, config = options.config, heads = options.heads,
    settle = options.settle, on_turn = self.on_tick,
    batch = options.batch or BATCH, batches = options.batches or BATCHES,
    ask = function(sql, params)
      return self:ask(sql, params)
    end }
  return self
end

function Keeper:is_lost()
  local status = self.conn:status()
  return status == "lost" or status == "closed"
end

function Keeper:ask(sql, params)
  self.on_tick()
  local rows, message, code = self.conn:query(sql, params, { timeout = self.config.database_timeout })
  return rows, message, not rows and self:is_lost() and "connection" or code
end

-- ==== a round ====

-- Nothing that a part does wrong, or a script's defect, keeps the others from their turn.
local function run(part, counts)
  local called, done, more, code = xpcall(part.run, debug.traceback)
  if not called then
    done, more, code = nil, done, "internal"
  end
  if not done then
    counts.failed = counts.failed + 1
    log.error("keeper failed", { part = part.name, reason = more, code = code })
    return code ~= "connection", more, code
  end
  for key, count in pairs(done) do
    counts[key] = count
  end
  counts.more = counts.more or more == true
  return true
end

-- Something happened: one line with what it was.
local function report(counts)
  local fields, any = {}, false
  for key, count in pairs(counts) do
    if type(count) == "number" and count > 0 then
      fields[key], any = count, true
    end
  end
  if any then
    log.info("keeper's round", fields)
  end
end

-- Folders of dead workers are this host's to see, whoever holds the lock.
function Keeper:sweep_staging(counts)
  local ok, number = pcall(self.sweep.staging, self.sweep)
  counts.staging = ok and number or 0
  if not ok then
    counts.failed = counts.failed + 1
    log.error("keeper failed", { part = "staging", reason = number })
  end
end

--- One round. Blocks; never yields.
-- @treturn[1] table counts: what was rescued, expired, moved (to the history), trimmed (from it), downloads, workers,
--   given (downloads, to their users), purged (former versions), emptied (expired files), orphans, unfinished,
--   missing, renewed, staging, failed (parts); `more` when there is more to do; only `staging`, `failed` and `busy`
--   when another keeper is at work
-- @return[2] nil: the database is gone
-- @treturn[2] string message
-- @treturn[2] string code
function Keeper:round()
  local counts = { failed = 0, more = false }
  self:sweep_staging(counts)
  if not self.is_mine then
    local rows, message, code = self:ask(LOCK)
    if not rows then
      return nil, message, code
    elseif not rows[1].mine then
      counts.busy = true
      report(counts)
      return counts
    end
    self.is_mine = true
  end
  for _, part in ipairs(self.parts) do
    local ok, message, code = run(part, counts)
    if not ok then
      report(counts)
      return nil, message, code
    elseif self.stopping then
      break
    end
  end
  report(counts)
  return counts
end

--- Lets another keeper have the lock. The end of the connection does that, too.
function Keeper:release()
  if self.is_mine and not self:is_lost() then
    self:ask(UNLOCK)
  end
  self.is_mine = false
end

-- ==== the loop ====

-- Until it is time, `stop`, or the end of the connection. In slices: a signal that comes just before a wait does not
-- end it.
function Keeper:rest(seconds)
  local deadline = clock.now() + seconds
  local left = seconds
  while left > 0 and not self.stopping do
    local ok, message, code = self.conn:notifications(math.min(left, 1))
    if not ok then
      return nil, message, code
    end
    self.on_tick()
    left = deadline - clock.now()
  end
  return true
end

function Keeper:reconnect()
  self.is_mine = false
  while not self.stopping do
    self.pauses = self.pauses + 1
    backoff.wait(self.pauses, self, self.on_tick)
    local conn, message, code = self.connect()
    if conn then
      self.conn = conn
      return log.info("database reached again")
    end
    log.warn("database not reached", { reason = message, code = code })
  end
end

function Keeper:attend()
  while not self.stopping do
    local counts, message, code = self:round()
    if counts then
      self.pauses = 0
      local interval = self.config.keeper_interval
      counts, message, code = self:rest(counts.more and math.min(SOON, interval) or interval)
    end
    if not counts then
      return nil, message, code
    end
  end
  return true
end

--- Keeps until `stop`: a round each `keeper_interval`. With `connect`, a lost database is waited for. Blocks.
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Keeper:serve()
  while not self.stopping do
    local ok, message, code = self:attend()
    if not ok and not self.connect then
      return nil, message, code
    elseif not ok then
      log.error("database failed", { reason = message, code = code })
      self:reconnect()
    end
  end
  self:release()
  return true
end

--- Asks the loop to end: what is under way ends with its batch.
function Keeper:stop()
  self.stopping = true
end

return M
