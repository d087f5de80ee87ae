--- Files on their way to the store, in the order of their puts, until it has confirmed or refused them.
-- Knows the queue only to keep the lease, to hand over what is stored, and to fail what was refused.
-- @module workflow.outbox
local breaker = require "workflow.breaker"
local clock = require "clock"
local generate = require "workflow.generate"

local M = {}
local Outbox = {}
Outbox.__index = Outbox

local STORE_SECONDS = 300 -- until a file that the store does not confirm is given up
local SLOW = 0.05         -- seconds after which live views are told what takes so long

--- A new outbox.
-- @tparam table options store, config, queue (see workflow.ledger), progress (see workflow.progress)
-- @treturn table outbox
function M.new(options)
  return setmetatable({
    store = options.store,
    config = options.config,
    queue = options.queue,
    progress = options.progress,
    sent = {},
    late = {}, -- given up by us, but not yet by the store
  }, Outbox)
end

--- Takes a file whose put has begun.
-- @tparam table job
-- @tparam table artifact
function Outbox:add(job, artifact)
  self.sent[#self.sent + 1] = { job = job, artifact = artifact }
end

--- How many are on their way.
-- @treturn integer
function Outbox:count()
  return #self.sent
end

-- Waits for one file, and keeps the lease meanwhile.
function Outbox:await(item)
  local ticket, deadline = item.artifact.ticket, clock.now() + STORE_SECONDS
  local ok, message, code = self.store:wait(ticket, SLOW)
  if code == "timeout" then
    self.progress:tell(item.job, "storing")
  end
  while code == "timeout" and clock.now() < deadline do
    self.queue:keep_lease()
    ok, message, code = self.store:wait(ticket, self.config.worker_lease / 3)
  end
  if code == "timeout" then
    self.late[#self.late + 1] = item.artifact
  end
  return ok, message, code
end

-- Files that were given up may still arrive, or fail: then they go.
function Outbox:sweep_late()
  for i = #self.late, 1, -1 do
    local _, _, code = self.store:wait(self.late[i].ticket, 0)
    if code ~= "timeout" then
      self.queue:discard(table.remove(self.late, i))
    end
  end
end

--- Waits until the store has the `count` files that were sent first; what it refused fails. Where the store itself is
-- out of reach, the job is left as it is: `outage` is then {message, code}, for the worker to hand back what it holds.
-- @tparam integer count
-- @treturn[1] boolean true
-- @return[2] nil: the session with the database is over
-- @treturn[2] string message
-- @treturn[2] string code
function Outbox:settle(count)
  self:sweep_late()
  for _ = 1, count do
    local item = table.remove(self.sent, 1)
    local artifact = item.artifact
    local ok, message, code = self:await(item)
    if code ~= "timeout" then
      generate.clean(artifact)
    end
    if ok then
      artifact.timing.store = (clock.now() - artifact.timing.stored_from) * 1000
      self.queue.stored[#self.queue.stored + 1] = item
    elseif breaker.is_outage(code) then
      self.outage = { message = message, code = code }
    else
      ok, message, code = self.queue:fail(item.job, message, code)
      if not ok then
        return nil, message, code
      end
    end
  end
  return true
end

--- Nothing will complete these any more: they go as soon as they have arrived.
function Outbox:abandon()
  for _, item in ipairs(self.sent) do
    self.store:wait(item.artifact.ticket, STORE_SECONDS)
    self.queue:discard(item.artifact)
  end
  self.sent = {}
end

return M
