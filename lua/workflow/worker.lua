--- The worker: claims a batch, builds it, stores it, and completes it while the next one is being built.
--
-- One turn of the loop is: build what was claimed (each file starts on its way to the store at once), then complete
-- what has arrived there meanwhile and claim more in one transaction. So the store is busy while the processor is, the
-- time that an answer takes costs nothing, and a batch costs one commit.
--
-- Owns the order of things and signals. What the queue is told is workflow.ledger's, what people are told is
-- workflow.progress's, the way back to a lost database workflow.comeback's.
-- @module workflow.worker
local breaker = require "workflow.breaker"
local clock = require "clock"
local comeback = require "workflow.comeback"
local express = require "workflow.express"
local generate = require "workflow.generate"
local guarded = require "workflow.guarded"
local idle = require "workflow.idle"
local ledger = require "workflow.ledger"
local log = require "log"
local outbox = require "workflow.outbox"
local progress = require "workflow.progress"
local suspects = require "workflow.suspects"

local M = {}
local Worker = {}
Worker.__index = Worker

local BATCH_LIMIT = 100
local PATIENCE = 0.25        -- seconds that files under way are waited for before more is claimed
local SLOWEST = 2 << 20      -- bytes a second that building a large bundle surely reaches

--- A new worker.
-- @tparam table options conn (database), store, ring, config; optional: connect(), which gives a new connection or nil,
--   message, code, when the first is lost; on_event(name, job, artifact or message); on_turn([seconds]), called again
--   and again while the loop goes round, and before what may take so many seconds
-- @treturn table worker
function M.new(options)
  local told = progress.new(options.on_event or function() end)
  local queue = ledger.new { conn = options.conn, store = options.store, config = options.config,
    on_event = told.event, on_turn = options.on_turn }
  told.queue = queue
  local builder = generate.new { config = options.config, ring = options.ring, store = options.store,
    on_wait = function()
      queue:keep_lease()
    end,
    on_large = function(bytes)
      queue:keep_lease(bytes / SLOWEST)
    end,
    on_stage = function(job, stage)
      told:tell(job, stage)
    end }
  local guard = breaker.new(options.store, options.on_turn)
  local doubted = suspects.new { queue = queue, breaker = guard }
  return setmetatable({
    queue = queue,
    connect = options.connect,
    progress = told,
    builder = builder,
    idle = idle.new { builder = builder, config = options.config },
    breaker = guard,
    suspects = doubted,
    express = express.new(),
    outbox = outbox.new { store = options.store, config = options.config, queue = queue, progress = told,
      suspects = doubted },
    batch = math.min(options.config.worker_batch, BATCH_LIMIT),
    drain_time = options.config.drain_time,
    holds = false, -- jobs, as far as is known
    pauses = 0, -- tries to reach the database since it failed
    stopping = false,
  }, Worker)
end

-- ==== building and storing ====

-- Sends what was begun on its way to the store, once the jail has passed it.
function Worker:finish(build)
  self.express:note(build.job)
  local artifact, message, code, verdict = guarded.run(self.builder.finish, self.builder, build, build.job)
  if not artifact then
    return self.queue:fail(build.job, message, code, verdict)
  end
  self.outbox:add(build.job, artifact)
  local ok, problem, why = self.outbox:tend()
  if ok and self.express:is_due(self.outbox.sent) then
    ok, problem, why = self.queue:exchange(0)
  end
  return ok and true, problem, why
end

-- A job that could not be begun fails, unless its template is not to be had: then nothing is wrong with it.
function Worker:refuse(job, message, code, verdict)
  self.express:note(job)
  if code == "unavailable" then
    self.suspects:note(job, message, code)
    return true
  end
  return self.queue:fail(job, message, code, verdict)
end

-- Begins a build, and finishes the one before. Gives the new one as fourth result.
function Worker:begin(job, ahead)
  self.progress.event("building", job)
  local build, problem, why, verdict = guarded.run(self.builder.begin, self.builder, job, job)
  local ok, message, code = true, nil, nil
  if ahead then
    ok, message, code = self:finish(ahead)
  end
  if ok and not build then
    ok, message, code = self:refuse(job, problem, why, verdict)
  end
  if ok then
    ok, message, code = self.suspects:weigh(self.outbox)
  end
  return ok, message, code, build
end

-- Builds the claimed jobs. One is always begun ahead: its scripts run while another child judges the one before.
function Worker:build(jobs)
  local ahead, ok, message, code = nil, true, nil, nil
  self.builder:refresh()
  for _, job in ipairs(jobs) do
    if self.stopping or not ok or self.suspects.outage then
      break
    end
    self.queue:keep_lease()
    if self.suspects:holds(job) then
      self.express:note(job)
    else
      ok, message, code, ahead = self:begin(job, ahead)
    end
  end
  if ahead and ok and not self.suspects.outage then
    ok, message, code = self:finish(ahead)
  elseif ahead then
    self.builder:cancel(ahead)
  end
  if ok then
    return self.suspects:flush()
  end
  return ok, message, code
end

-- The store is out of reach. What it has is completed; all that was held under the old name goes back, at no cost.
function Worker:hand_back()
  local outage, former = self.suspects.outage, self.queue.id
  local ok, message, code = self.outbox:part()
  self.suspects:forget()
  self.breaker:trip(outage.message, outage.code)
  if ok then
    ok, message, code = self.queue:resume(self.queue.conn, former)
  end
  return ok and self.queue.counts, message, code
end

-- ==== the loop ====

-- Works until nothing is left to claim, or `stop`.
function Worker:work(only)
  self.queue.on_turn()
  if not self.breaker:allows() then
    return self.queue.counts
  end
  local want = self.breaker:batch(only and 1 or self.batch)
  local jobs, message, code = self.queue:exchange(want, only)
  self.queue:lease_is_fresh()
  while jobs do
    local claimed = #jobs
    self.holds = self.holds or claimed > 0
    self.progress:claimed(jobs)
    local ok
    ok, message, code = self:build(self.express:order(jobs))
    -- A full batch suggests more work: its files may travel meanwhile. Else everything is finished now; but one that
    -- takes its time does not keep those waiting that are queued by then.
    local last = claimed < want or self.stopping
    local must_end = self.stopping or only or self.suspects.outage or self.breaker.is_doubtful
    if ok and (last or must_end) then
      ok, message, code = self.outbox:settle(not must_end and PATIENCE or nil)
    end
    if ok then
      ok, message, code = self.suspects:weigh(self.outbox)
    end
    if not ok then
      break
    elseif self.suspects.outage then
      return self:hand_back()
    end
    if self.outbox.taken > 0 then
      self.outbox.taken = 0
      self.breaker:passed()
      want = self.breaker:batch(only and 1 or self.batch)
    end
    if last and #self.queue.stored == 0 and (must_end or self.outbox:count() == 0) then
      return self.queue.counts
    end
    jobs, message, code = self.queue:exchange((self.stopping or only) and 0 or want)
  end
  return nil, message, code
end

-- Nothing will complete these any more.
function Worker:abandon()
  self.outbox:abandon()
  self.queue:abandon()
end

--- Works until nothing is left to claim (or `stop` was called), then returns. Blocks; never yields.
-- @tparam[opt] string only the queue id of the one job to work
-- @treturn[1] table counts: completed, failed, lost
-- @return[2] nil: the database is gone, and its claimed jobs run again elsewhere; or the store is, and they went back
-- @treturn[2] string message
-- @treturn[2] string code "connection" when it is the connection
function Worker:drain(only)
  self.suspects.problem = nil
  local counts, message, code = self:work(only)
  self.holds = self.holds and (self.stopping or not counts)
  local problem = self.breaker:is_open() or self.suspects.problem
  if counts and problem then
    return nil, problem.message, problem.code
  elseif not counts then
    -- One look whether the database is back: then nothing of what is built is in doubt or lost.
    local conn = self.connect and self.queue:is_lost() and self.connect()
    if conn then
      self:resume(conn, self.queue.id)
    end
    self:abandon()
  end
  return counts, message, code
end

-- Works the queue until `stop`, or until the database fails.
function Worker:attend()
  local conn = self.queue.conn
  local ok, message, code = self.idle:begin(conn)
  while ok and not self.stopping do
    ok, message, code = self:work()
    self.holds = self.holds and (self.stopping or not ok or self.queue.offer.aside[1] ~= nil)
    if ok and not self.stopping then
      self.pauses = 0
      ok, message, code = self.idle:wait(conn)
    end
  end
  return ok, message, code
end

-- Goes on in a new session, with all that the old one had built.
function Worker:resume(conn, former)
  self.queue.conn = conn
  local ok, message, code = self.outbox:part()
  if ok then
    ok, message, code = self.queue:resume(conn, former)
  end
  self.suspects:forget()
  self.holds = self.holds and not ok
  return ok, message, code
end

--- Works the queue until `stop`: at once when a job is announced, and now and then in case an announcement was lost
-- (behind a transaction pooler all are). Blocks; never yields. With `connect`, a lost database is waited for.
-- @treturn[1] table counts as of `drain`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Worker:serve()
  self.progress.is_serving, self.queue.offer.waits = true, false
  while not self.stopping do
    local ok, message, code = self:attend()
    if not ok and not self.connect then
      self:abandon()
      return nil, message, code
    elseif not ok then
      log.error("database failed", { reason = message, code = code })
      comeback.reconnect(self)
    end
  end
  return self.queue.counts
end

--- Asks the loop to end: what is stored is completed, what is not built is handed back. What a store or the database
-- keeps waiting for longer than the time to drain is handed back, too: whoever is killed while he waits, pays.
function Worker:stop()
  if not self.stopping then
    self.stop_at = clock.now() + self.drain_time
    self.outbox:hurry(self.drain_time)
  end
  self.stopping = true
end

--- Hands back whatever this worker still holds, at no cost. Without a connection the jobs went with it.
-- @treturn[1] integer number handed back
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Worker:release()
  -- First of all, where the session allows: a store that is silent while objects are deleted must cost no retry.
  local first = not self.queue:is_lost() and self.queue:release() or 0
  self:abandon()
  local released, message, code = comeback.release(self)
  return released and released + first, message, code
end

return M
