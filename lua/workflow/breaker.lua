--- A circuit breaker around the store: while it is out of reach, or refuses this service, no job is claimed, so that an
-- outage costs nobody a retry. Knows no queue.
-- @module workflow.breaker
local clock = require "clock"
local log = require "log"

local M = {}
local Breaker = {}
Breaker.__index = Breaker

-- Nothing is wrong with the job; another one would end the same way.
local OUTAGE = { unavailable = true, denied = true, no_bucket = true }
local FIRST_DELAY, LONGEST_DELAY = 0.25, 2 -- seconds between two looks at the store
local PROBE = "generated/atelier-probe" -- whether this is there does not matter

--- A new breaker, closed.
-- @tparam table store see storage
-- @treturn table breaker
function M.new(store)
  return setmetatable({ store = store, delay = FIRST_DELAY }, Breaker)
end

--- Whether a failure is the store's and not the job's.
-- @tparam ?string code
-- @treturn boolean
function M.is_outage(code)
  return OUTAGE[code] or false
end

--- Opens it.
-- @tparam string message
-- @tparam string code
function Breaker:trip(message, code)
  if not self.problem then
    log.error("store out of reach: jobs wait", { reason = message, code = code })
  end
  self.problem, self.code = message, code
  self.next_look = clock.now() + self.delay
  self.delay = math.min(self.delay * 2, LONGEST_DELAY)
end

--- The store took something: the next outage is a new one.
function Breaker:passed()
  self.delay = FIRST_DELAY
end

--- Whether jobs may be claimed; looks at the store now and then while it is open.
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Breaker:allows()
  if self.problem and clock.now() >= self.next_look then
    local _, message, code = self.store:head(PROBE)
    -- A bucket may be missing until the first put makes it.
    if M.is_outage(code) and code ~= "no_bucket" then
      self:trip(message, code)
    else
      log.info("store reached again")
      self.problem = nil
    end
  end
  if self.problem then
    return nil, self.problem, self.code
  end
  return true
end

return M
