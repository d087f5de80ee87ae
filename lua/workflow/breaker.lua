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
local LOOK_SECONDS = 5
local PROBE = "generated/atelier-probe" -- whether this is there does not matter

--- A new breaker, closed.
-- @tparam table store see storage
-- @tparam[opt] function on_turn as of workflow.worker
-- @treturn table breaker
function M.new(store, on_turn)
  return setmetatable({ store = store, on_turn = on_turn or function() end, delay = FIRST_DELAY }, Breaker)
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

--- Looks at the store.
-- @treturn[1] boolean true: it answers
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Breaker:sees()
  self.on_turn(LOOK_SECONDS)
  local _, message, code = self.store:look(PROBE, LOOK_SECONDS)
  -- A bucket may be missing until the first put makes it.
  if M.is_outage(code) and code ~= "no_bucket" then
    return nil, message, code
  end
  return true
end

--- Why it is open.
-- @treturn ?table {message, code}
function Breaker:is_open()
  return self.problem and { message = self.problem, code = self.code }
end

--- How many jobs may be claimed at once: a store that answers does not yet take files.
-- @tparam integer want
-- @treturn integer
function Breaker:batch(want)
  return self.is_doubtful and math.min(want, 1) or want
end

--- The store took files: the next outage is a new one.
function Breaker:passed()
  self.delay, self.is_doubtful = FIRST_DELAY, false
end

--- Whether jobs may be claimed; looks at the store now and then while it is open.
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Breaker:allows()
  if self.problem and clock.now() >= self.next_look then
    local ok, message, code = self:sees()
    if not ok then
      self:trip(message, code)
    else
      log.info("store answers again")
      self.problem, self.is_doubtful = nil, true
    end
  end
  if self.problem then
    return nil, self.problem, self.code
  end
  return true
end

return M
