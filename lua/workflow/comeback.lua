--- A worker's way back to its database, and its last words to it: what it holds goes back at no cost to the jobs.
--
-- A session that ends takes the worker's lock along, and from then on others may take its jobs for a dead worker's,
-- which costs each of them a retry. So a session is kept while it answers, and a worker that is to end looks for a lost
-- one, too, as long as it has jobs in hand. Knows nothing of how files are made and stored.
-- @module workflow.comeback
local backoff = require "workflow.backoff"
local clock = require "clock"
local log = require "log"

local M = {}

local SAME_SESSION = 3 -- tries to go on in a session that is not lost, before a new one is opened

-- Where the old session takes nothing any more (another server is the first one now), a new one may.
local function session(worker)
  if worker.pauses <= SAME_SESSION and not worker.queue:is_lost() then
    return worker.queue.conn
  end
  return worker.connect()
end

local function is_in_time(worker)
  return clock.now() < worker.stop_at
end

--- Has a worker whose database failed go on, once that answers. One that was told to stop gives up: at once when it
-- holds nothing, else when its time to drain is over.
-- @tparam table worker see workflow.worker
function M.reconnect(worker)
  local former = worker.queue.id
  while not worker.stopping or worker.holds and is_in_time(worker) do
    worker.pauses = worker.pauses + 1
    backoff.wait(worker.pauses, worker, worker.queue.on_turn)
    local ok, message, code = session(worker)
    if ok then
      ok, message, code = worker:resume(ok, former)
    end
    if ok then
      return log.info("database reached again", { worker_id = worker.queue.id })
    end
    log.warn("database not reached", { reason = message, code = code })
  end
end

--- Hands back whatever a worker holds; one that was told to stop tries again while there is time. Without a connection
-- the jobs went with it.
-- @tparam table worker
-- @treturn[1] integer number handed back
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.release(worker)
  if worker.stopping and worker.holds and worker.connect and worker.queue:is_lost() then
    M.reconnect(worker)
  end
  while not worker.queue:is_lost() do
    local released, message, code = worker.queue:release()
    if released or not worker.stopping or not is_in_time(worker) then
      return released, message, code
    end
    log.warn("jobs not handed back yet", { reason = message, code = code })
    backoff.wait(1, worker, worker.queue.on_turn)
  end
  return 0
end

return M
