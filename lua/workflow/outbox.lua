--- Files on their way to the store, in the order of their puts, until it has confirmed or refused them.
--
-- They travel while others are built: a store that takes its time holds nobody up before so many are under way that
-- memory, or the staging disk, would not hold more. Knows the queue only to keep the lease, to hand over what is
-- stored, and to fail what was refused.
-- @module workflow.outbox
local breaker = require "workflow.breaker"
local clock = require "clock"
local generate = require "workflow.generate"
local log = require "log"

local M = {}
local Outbox = {}
Outbox.__index = Outbox

local STORE_SECONDS = 300 -- until a file that the store does not confirm is given up
local ABANDON_SECONDS = 5 -- for all that is under way when nobody will complete it
local LOOK_SECONDS = 1    -- between two looks whether there is still time for it
local SLOW = 0.05         -- seconds after which live views are told what takes so long
local MOST = 192          -- files under way: a store's pool takes 256, and 100 ms at 1,500 a second are 150
local MOST_BYTES = 64 << 20 -- of files that are in memory
local MOST_LARGE = 2      -- files that are in a folder of their own

--- A new outbox.
-- @tparam table options store, config, queue (see workflow.ledger), progress (see workflow.progress),
--   suspects (see workflow.suspects)
-- @treturn table outbox
function M.new(options)
  return setmetatable({
    store = options.store,
    config = options.config,
    queue = options.queue,
    progress = options.progress,
    suspects = options.suspects,
    sent = {},
    bytes = 0,   -- of those in `sent` that are in memory
    large = 0,   -- of `sent`, those that are in a folder
    taken = 0,   -- files that the store has taken so far
    late = {}, -- given up by us, but not yet by the store
    leave_at = math.huge, end_at = math.huge, -- see `hurry`
  }, Outbox)
end

--- There is only so much time left: then what the store has not confirmed is left as it is, for `abandon`.
-- @tparam number seconds for all, `abandon` included
function Outbox:hurry(seconds)
  self.end_at = clock.now() + seconds
  self.leave_at = self.end_at - math.min(ABANDON_SECONDS, seconds / 2)
end

local function is_to_leave(self)
  return clock.now() >= self.leave_at
end

local function weigh(self, item, sign)
  local artifact = item.artifact
  if artifact.folder then
    self.large = self.large + sign
  else
    self.bytes = self.bytes + sign * artifact.size
  end
end

--- Takes a file whose put has begun.
-- @tparam table job
-- @tparam table artifact
function Outbox:add(job, artifact)
  local item = { job = job, artifact = artifact }
  self.sent[#self.sent + 1] = item
  weigh(self, item, 1)
end

local function take(self, i)
  local item = table.remove(self.sent, i)
  weigh(self, item, -1)
  return item
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
  while code == "timeout" and clock.now() < deadline and not is_to_leave(self) do
    self.queue:keep_lease()
    ok, message, code = self.store:wait(ticket, math.min(self.config.worker_lease / 3, LOOK_SECONDS))
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

-- What the store said of a file, and what follows from it.
local function conclude(self, item, ok, message, code)
  local artifact = item.artifact
  if code ~= "timeout" then
    generate.clean(artifact)
  end
  if ok then
    artifact.timing.store = (clock.now() - artifact.timing.stored_from) * 1000
    self.taken = self.taken + 1
    self.suspects:clear(item.job, artifact.timing.stored_from)
    self.queue.stored[#self.queue.stored + 1] = item
  elseif breaker.is_outage(code) then
    self.suspects:note(item.job, message, code, artifact.timing.stored_from)
  else
    return self.queue:fail(item.job, message, code)
  end
  return true
end

--- Waits until the store has the `count` files that were sent first; what it refused fails. Where that is none of
-- the job's doing, it is left as it is, and is among the suspects. Fewer when there is no time left, see `hurry`.
-- @tparam integer count
-- @treturn[1] boolean true
-- @return[2] nil: the session with the database is over
-- @treturn[2] string message
-- @treturn[2] string code
function Outbox:settle(count)
  self:sweep_late()
  for _ = 1, count do
    local item = self.sent[1]
    local ok, message, code = self:await(item)
    if code == "timeout" and is_to_leave(self) then
      break
    elseif code == "timeout" then
      self.late[#self.late + 1] = item.artifact
    end
    ok, message, code = conclude(self, take(self, 1), ok, message, code)
    if not ok then
      return nil, message, code
    end
  end
  return true
end

--- Carries the files on their way, takes those that have arrived, and waits only where too many are under way.
-- @return as of `settle`
function Outbox:tend()
  while self.sent[1] do
    local ok, message, code = self.store:wait(self.sent[1].artifact.ticket, 0)
    if code == "timeout" then
      break
    end
    ok, message, code = conclude(self, take(self, 1), ok, message, code)
    if not ok then
      return nil, message, code
    end
  end
  while #self.sent > 1 and (#self.sent > MOST or self.bytes > MOST_BYTES or self.large > MOST_LARGE)
    and not is_to_leave(self) do
    local ok, message, code = self:settle(1)
    if not ok then
      return nil, message, code
    end
  end
  return true
end

--- Nothing will complete these any more: they go as soon as they have arrived. All together have a few seconds, for a
-- store that does not answer must not keep jobs from going back; what arrives after that is left to the store's sweep.
function Outbox:abandon()
  local deadline = math.min(clock.now() + ABANDON_SECONDS, self.end_at)
  for _, item in ipairs(self.sent) do
    self.queue.on_turn(ABANDON_SECONDS)
    local _, _, code = self.store:wait(item.artifact.ticket, math.max(deadline - clock.now(), 0))
    if code == "timeout" then
      generate.clean(item.artifact)
      log.warn("object left", { key = item.artifact.key, reason = "the store has not confirmed it yet" })
    elseif clock.now() < deadline then
      self.queue:discard(item.artifact)
    else
      generate.clean(item.artifact)
      log.warn("object left", { key = item.artifact.key, reason = "there was no time to delete it" })
    end
  end
  self.sent, self.bytes, self.large = {}, 0, 0
end

return M
