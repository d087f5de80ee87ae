--- Stored files that are offered to the queue for completion, and those among them that it cannot take yet.
--
-- A transaction that somebody forgot to end may hold the rows of one customer, whose job cannot be completed then. It
-- is set aside and offered again now and then, and its lease is kept; the worker has others to do meanwhile. Owns what
-- is set aside. Must not know what becomes of a file that is not taken at all.
-- @module workflow.offer
local clock = require "clock"
local json = require "atelier.json"
local log = require "log"

local M = {}
local Offer = {}
Offer.__index = Offer

local COMPLETE = "select queue_id, ate_file_id, error from complete_ate_batch($1, %s)"
local HURRIED, PATIENT = COMPLETE:format "true", COMPLETE:format "false"
local PAUSE = 1  -- seconds between two offers of what is set aside
local MOST = 100 -- set aside: somebody holds more than one customer then, and what is built now would only wait, too

--- A new one; nothing is set aside.
-- @tparam number lease seconds
-- @treturn table offer: `waits`, whether whoever is in the way is waited for (true); `aside`, the items set aside
function M.new(lease)
  return setmetatable({ waits = true, aside = {}, again_at = 0, lease = lease, renew_at = 0 }, Offer)
end

--- The statement that offers items.
-- @tparam table items {job, artifact}
-- @treturn table as of workflow.prepared; its rows come in the order of the items
function Offer:statement(items)
  local list = {}
  for i, item in ipairs(items) do
    local job, artifact = item.job, item.artifact
    list[i] = { queue_id = job.queue_id, attempt = job.attempt, file_path = artifact.key, file_size = artifact.size,
      checksum = artifact.checksum, encryption_key_hash = artifact.encryption_key_hash,
      generated_variables = artifact.variables, verdict = artifact.verdict or nil, usage = artifact.usage or nil }
  end
  return { self.waits and PATIENT or HURRIED, { assert(json.encode(json.array(list))) },
    name = self.waits and "ate_complete" or "ate_complete_free" }
end

--- Sets an item aside when the answer says that another transaction is in its way.
-- @tparam table item
-- @tparam string reason
-- @treturn boolean whether it does
function Offer:is_busy(item, reason)
  if not reason:find "^busy:" then
    return false
  end
  if not item.was_busy then
    log.warn("file not recorded yet", { queue_id = item.job.queue_id, attempt = item.job.attempt,
      device = item.job.device_hash, reason = reason })
  end
  item.was_busy = true
  self.again_at = clock.now() + PAUSE
  table.insert(self.aside, 1, item) -- the database takes its time for the first ones of many only
  return true
end

--- Whether so much is set aside that nothing more should be claimed.
-- @treturn boolean
function Offer:is_full()
  return #self.aside >= MOST
end

--- Adds what is set aside to other items, when it is time.
-- @tparam table items
-- @tparam[opt] boolean now whatever the time
-- @treturn boolean whether the lease should be renewed, too
function Offer:add_to(items, now)
  local moment = clock.now()
  if not self.aside[1] or not now and moment < self.again_at then
    return false
  end
  table.move(self.aside, 1, #self.aside, #items + 1, items)
  self.aside = {}
  if moment < self.renew_at then
    return false
  end
  self.renew_at = moment + self.lease / 3
  return true
end

return M
