--- What a front remembers of a store that was out of order: until when it is not asked again. Whoever comes meanwhile
-- is told at once when to come again, in place of waiting for tries that will hardly do better.
--
-- A store that names a time has it. One that only fails has a moment, and not before two objects in a row have failed:
-- one that nobody can read must not close the store for all others. Knows no store.
-- @module storage.respite
local clock = require "clock"

local M = {}
local Respite = {}
Respite.__index = Respite

local LONGEST = 60              -- seconds, whatever the store asks for: then one request looks again
local MOMENT, TOLD = 2, 5       -- where it names no time: seconds that it has, and that the client is told

--- A new one: the store may be asked.
-- @tparam[opt] function now gives seconds
-- @treturn table respite
function M.new(now)
  return setmetatable({ now = now or clock.now, over_at = -math.huge }, Respite)
end

--- How long the client should wait.
-- @treturn ?number seconds; nil: the store may be asked
function Respite:left()
  local now = self.now()
  return now < self.over_at and math.max(self.told_at - now, 0) or nil
end

--- Takes the outcome of a request.
-- @tparam string key
-- @tparam ?string code nil or false when all went well
-- @tparam[opt] number seconds that the store asks to wait
function Respite:note(key, code, seconds)
  local former = self.failed
  self.failed = code == "unavailable" and key or nil
  if self.failed and (seconds or former and former ~= key) then
    local now = self.now()
    self.over_at = now + math.min(seconds or MOMENT, LONGEST)
    self.told_at = now + (seconds or TOLD)
  end
end

--- Asks the store, unless it is to be left alone.
-- @tparam string key
-- @tparam function ask
-- @param ... what it is given
-- @return what it gives; or nil, message, "unavailable", seconds
function Respite:guard(key, ask, ...)
  local left = self:left()
  if left then
    return nil, "storage: failed a moment ago, and is not asked yet", "unavailable", left
  end
  local result, message, code, seconds = ask(...)
  self:note(key, result == nil and code, seconds)
  return result, message, code, seconds
end

return M
