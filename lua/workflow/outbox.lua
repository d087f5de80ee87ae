--- Files on their way to the store, until it has confirmed or refused them.
--
-- They travel while others are built: a store that takes its time holds nobody up before so many are under way that
-- memory, or the staging disk, would not hold more. They mostly arrive in the order of their puts, and so it is the
-- first that is waited for; but what arrives behind one that takes its time is recorded without it. Knows the queue
-- only to keep the lease, to hand over what is stored, and to fail what was refused.
-- @module workflow.outbox
local breaker = require "workflow.breaker"
local clock = require "clock"
local generate = require "workflow.generate"
local log = require "log"

local M = {}
local Outbox = {}
Outbox.__index = Outbox

local STORE_SECONDS = 300 -- until a file that the store does not confirm is given up
local PART_SECONDS = 15   -- until jobs go back without the files that the store does not confirm
local ABANDON_SECONDS = 5 -- for all that is under way when nobody will complete it
local SLOWEST = 1 << 20   -- bytes a second: a large file has so much more time
local SLOW = 0.05         -- seconds after which live views are told what takes so long, and others are looked at
local LONG = 1            -- seconds between two looks where there are no others
local RECORD_SECONDS = 0.2 -- until what has arrived is recorded, while others are waited for
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
    look_at = 0, -- when those behind the first are looked at again
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

-- Files that were given up may still arrive: then they go. Of one that failed a store that is out of order may have
-- taken something after all; it is not waited for again, and that is left to the store's sweep.
function Outbox:sweep_late()
  for i = #self.late, 1, -1 do
    local ok, _, code = self.store:wait(self.late[i].ticket, 0)
    if ok then
      self.queue:discard(table.remove(self.late, i))
    elseif code ~= "timeout" then
      generate.clean(table.remove(self.late, i))
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
  elseif code == "timeout" then -- given up; whatever becomes of it, it is another attempt's file that counts
    self.late[#self.late + 1] = artifact
    self.suspects:note(item.job, message, "unavailable", artifact.timing.stored_from)
  else
    return self.queue:fail(item.job, message, code)
  end
  return true
end

-- One that the store does not confirm is given up in the end: that is the store's doing, and not the job's.
local function doubt(self, item, now, message)
  item.give_up_at = item.give_up_at or now + STORE_SECONDS + item.artifact.size / SLOWEST
  if now < item.give_up_at then
    return true
  end
  return conclude(self, take(self, 1), nil, message, "timeout")
end

-- The first takes its time: what has arrived behind it does not wait for it.
local function look_behind(self, message)
  local now, i = clock.now(), 2
  self.look_at = now + SLOW
  while self.sent[i] do
    local ok, problem, code = self.store:poll(self.sent[i].artifact.ticket)
    if code == "timeout" then
      i = i + 1
    else
      ok, problem, code = conclude(self, take(self, i), ok, problem, code)
      if not ok then
        return nil, problem, code
      end
    end
  end
  return doubt(self, self.sent[1], now, message)
end

-- Records what has arrived, when that is due. Gives when it is due the next time.
local function record(self, due)
  local now = clock.now()
  if now < due or not self.queue.stored[1] then
    return due
  end
  local ok, message, code = self.queue:exchange(0)
  return ok and now + RECORD_SECONDS, message, code
end

-- Waits until it is enough, or the time is over.
local function carry(self, is_enough, seconds)
  local now = clock.now()
  local slice, due, deadline = SLOW, now + RECORD_SECONDS, now + (seconds or math.huge)
  while self.sent[1] and not is_enough(self) and now < deadline and not is_to_leave(self) do
    local item = self.sent[1]
    local ok, message, code = self.store:wait(item.artifact.ticket, math.min(slice, deadline - now))
    if code ~= "timeout" then
      ok, message, code = conclude(self, take(self, 1), ok, message, code)
    else
      self.progress:tell(item.job, "storing")
      self.queue:keep_lease()
      ok, message, code = look_behind(self, message)
      if ok then
        due, message, code = record(self, due)
        ok = due
      end
      slice = (self.sent[2] or self.queue.stored[1]) and SLOW or LONG
    end
    if not ok then
      return nil, message, code
    end
    now = clock.now()
  end
  return true
end

local function never()
  return false
end

--- Waits until nothing is on its way; what the store refused fails. Where that is none of the job's doing, it is left
-- as it is, and is among the suspects. What has arrived is recorded meanwhile, when that lasts. Ends before when there
-- is no time left, see `hurry`.
-- @tparam[opt] number seconds so long at most
-- @tparam[opt] function is_enough gives true when the rest need not be waited for
-- @treturn[1] boolean true
-- @return[2] nil: the session with the database is over
-- @treturn[2] string message
-- @treturn[2] string code
function Outbox:settle(seconds, is_enough)
  self:sweep_late()
  return carry(self, is_enough or never, seconds)
end

--- Before jobs go back: as `settle`, but a file that takes longer than one of its size may is given up, so that one
-- put that hangs does not hold all others. Its job goes back, too; should the file arrive yet, it is deleted.
-- @return as of `settle`
function Outbox:part()
  local from = clock.now()
  local ok, message, code = self:settle(nil, function()
    local seconds = 0
    for _, item in ipairs(self.sent) do
      seconds = math.max(seconds, PART_SECONDS + item.artifact.size / SLOWEST)
    end
    return clock.now() - from >= seconds
  end)
  while ok and self.sent[1] and not is_to_leave(self) do -- else it is left for `abandon`
    self.late[#self.late + 1] = take(self, 1).artifact
  end
  return ok, message, code
end

local function has_room(self)
  return #self.sent <= 1 or #self.sent <= MOST and self.bytes <= MOST_BYTES and self.large <= MOST_LARGE
end

--- Carries the files on their way, takes those that have arrived, and waits only where too many are under way.
-- @return as of `settle`
function Outbox:tend()
  local is_late = false
  while self.sent[1] and not is_late do
    local ok, message, code = self.store:wait(self.sent[1].artifact.ticket, 0)
    is_late = code == "timeout"
    if not is_late then
      ok, message, code = conclude(self, take(self, 1), ok, message, code)
    elseif clock.now() >= self.look_at then
      ok, message, code = look_behind(self, message)
    else
      ok = true
    end
    if not ok then
      return nil, message, code
    end
  end
  return carry(self, has_room)
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
