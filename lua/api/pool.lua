--- The database connections of a front: few, shared by all requests, each used by one at a time.
--
-- Owns the connections, who waits for one, and coming back after a loss. Must not know any statement but those that
-- it is told to prepare on each. Works inside the loop of atelier.httpd only.
-- @module api.pool
local httpd = require "atelier.httpd"
local log = require "log"
local pg = require "atelier.pg"

local M = {}

local MOST_WAITING = 1000
local CONNECT_TIMEOUT, CANCEL_TIMEOUT = 5, 5
local FIRST_DELAY, LONGEST_DELAY = 0.1, 5

local Pool, Slot, Waiter = {}, {}, {}
Pool.__index, Slot.__index, Waiter.__index = Pool, Slot, Waiter

-- ==== who waits ================================================================================

-- Hands a connection to who has waited longest, or lays it by.
local function give(pool, slot)
  while pool.head <= pool.tail do
    local waiter = pool.queue[pool.head]
    pool.queue[pool.head] = nil
    pool.head = pool.head + 1
    if not waiter.is_over then
      waiter.slot = slot
      if waiter.task:wake() then
        return
      end
      waiter.slot = nil
    end
  end
  pool.idle[#pool.idle + 1] = slot
end

-- A request that ends while it waits, or just when it is its turn, must not keep a connection.
function Waiter:__close()
  self.is_over = true
  self.task = nil
  self.pool.waiting = self.pool.waiting - 1
  if self.slot then
    give(self.pool, self.slot)
  end
end

local function dismiss_waiters(pool)
  for i = pool.head, pool.tail do
    local waiter = pool.queue[i]
    pool.queue[i] = nil
    if not waiter.is_over then
      waiter.task:wake()
    end
  end
  pool.head, pool.tail = 1, 0
end

local function wait_in_line(pool, deadline)
  if pool.waiting >= MOST_WAITING then
    return nil, "database: too many requests wait for a connection", "busy"
  end
  local waiter <close> = setmetatable({ pool = pool, task = httpd.current(), slot = nil, is_over = nil }, Waiter)
  pool.waiting = pool.waiting + 1
  pool.tail = pool.tail + 1
  pool.queue[pool.tail] = waiter
  httpd.park(deadline and math.max(deadline - httpd.now(), 0) or pool.timeout)
  local slot = waiter.slot
  waiter.slot = nil
  if slot then
    return slot
  end
  return nil, pool.failure or "database: no connection became free in time", pool.failure and "connection" or "busy"
end

--- A connection for one use: a value to be closed, which gives it back, whatever became of it. Fields: `conn`,
-- `prepared` (name → statement), `options` of its statements; whoever has run his statement well calls `answered`,
-- where it was not, `is_clean` is false, and `is_spent` has the connection replaced.
-- @tparam[opt] number deadline as of `httpd.now`; without it, the pool's time
-- @treturn[1] slot
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "connection" or "busy"
function Pool:take(deadline)
  local n = #self.idle
  local slot = self.idle[n]
  if slot then
    self.idle[n] = nil
    return slot
  elseif self.live == 0 and self.failure then
    return nil, self.failure, "connection"
  end
  return wait_in_line(self, deadline)
end

-- ==== connections ==============================================================================

local function drop(slot)
  if slot.conn then
    slot.conn:close()
    slot.conn = nil
    slot.pool.live = slot.pool.live - 1
  end
end

local function connect(slot)
  local pool = slot.pool
  local conn, message = pg.connect(pool.url, { timeout = CONNECT_TIMEOUT, application_name = pool.name, yield = true,
    cancel_timeout = math.min(CANCEL_TIMEOUT, pool.timeout / 2) }) -- which comes on top of a statement's own
  if not conn then
    return nil, message
  end
  slot.prepared, slot.is_spent, slot.is_clean = {}, nil, true
  for name, sql in pairs(pool.prepare) do
    local ok, why, code = conn:prepare(name, sql, { timeout = CONNECT_TIMEOUT })
    if not ok and code ~= "42P05" then -- which a pooler says; the first statement will tell
      conn:close()
      return nil, why
    end
  end
  slot.conn = conn
  pool.live = pool.live + 1
  if pool.failure then
    pool.failure = nil
    log.info("the database is back", { process = pool.name })
  end
  return true
end

-- Connects for as long as it takes, then hands the connection out.
local function come_back(slot)
  local pool, delay = slot.pool, FIRST_DELAY
  while not pool.is_closed do
    local ok, message = connect(slot)
    if ok then
      return give(pool, slot)
    end
    if not pool.failure then
      log.warn("the database is not available", { process = pool.name, reason = message })
    end
    pool.failure = message
    if pool.live == 0 then
      dismiss_waiters(pool)
    end
    httpd.sleep(delay * (0.5 + math.random() / 2))
    delay = math.min(delay * 2, LONGEST_DELAY)
  end
end

-- Where one connection broke, others may have: they are tried before a request gets them.
local function try_again(slot)
  if slot.conn:query("select", nil, { timeout = 2 }) then
    return give(slot.pool, slot)
  end
  drop(slot)
  come_back(slot)
end

local function lose(slot)
  local pool, idle = slot.pool, slot.pool.idle
  drop(slot)
  pool.idle = {}
  for _, other in ipairs(idle) do
    httpd.spawn(try_again, other)
  end
  httpd.spawn(come_back, slot)
end

-- The end of a use, however it came: also of a request whose client left in the midst of a statement, which is awaited
-- then.
function Slot:__close()
  if self.pool.is_closed then
    return drop(self)
  elseif self.is_clean or not self.is_spent and self.conn:forget() then
    return give(self.pool, self)
  end
  lose(self)
end

-- ==== use ======================================================================================

-- A statement came back, and nothing is open on the connection.
function Slot:answered()
  self.is_clean = true
  self.pool.answered_at = httpd.now()
end

--- How long ago a statement came back, on whatever connection.
-- @treturn number seconds; without end where none ever did
function Pool:silence()
  return self.answered_at and httpd.now() - self.answered_at or math.huge
end

--- A connection of its own, for LISTEN. The caller closes it, and comes again when it is lost.
-- @treturn[1] conn of atelier.pg, that yields
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Pool:listener()
  return pg.connect(self.url, { timeout = CONNECT_TIMEOUT, application_name = self.name .. " listener", yield = true })
end

--- Connects; returns when the first connection is there, or could not be made.
function Pool:start()
  for i = 2, #self.slots do
    httpd.spawn(come_back, self.slots[i])
  end
  local ok, message = connect(self.slots[1])
  if ok then
    return give(self, self.slots[1])
  end
  self.failure = message
  log.warn("the database is not available", { process = self.name, reason = message })
  httpd.spawn(come_back, self.slots[1])
end

--- Whether a statement can be expected to run.
function Pool:is_ready()
  return self.live > 0
end

--- Numbers for an operator.
-- @treturn table `connections` that are there, `idle` of them, `waiting` requests
function Pool:stats()
  return { connections = self.live, idle = #self.idle, waiting = self.waiting }
end

--- Closes what is idle; the rest when it comes back.
function Pool:close()
  self.is_closed = true
  for _, slot in ipairs(self.idle) do
    drop(slot)
  end
  self.idle = {}
  dismiss_waiters(self)
end

--- A pool; `start` connects it.
-- @tparam table options `url`, `connections`, `timeout` in seconds until who waits is told so, `name` for
--   pg_stat_activity, `prepare`: name → statement, prepared on each connection
-- @treturn table pool
function M.new(options)
  local self = setmetatable({ url = options.url, name = options.name or "atelier front", timeout = options.timeout,
    prepare = options.prepare or {}, slots = {}, idle = {}, live = 0, queue = {}, head = 1, tail = 0, waiting = 0 },
    Pool)
  for i = 1, options.connections do
    self.slots[i] = setmetatable({ pool = self, batch = {}, item = {}, options = {}, prepared = {} }, Slot)
  end
  return self
end

return M
