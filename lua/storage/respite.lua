--- What a front remembers of a store that was out of order: until when it is not asked again. Whoever comes meanwhile
-- is told at once when to come again, in place of waiting for tries that will hardly do better.
--
-- What befalls one object, or some, must not close the store for everybody. So a store that names a time has it for
-- the object that was asked for; and for all only when two in a row have failed, and none was had for a moment. One
-- that only fails has a moment, on the same terms. While all of it is left alone, one request looks now and then
-- whether it must be. Knows no store.
-- @module storage.respite
local clock = require "clock"

local M = {}
local Respite = {}
Respite.__index = Respite

local LONGEST = 60              -- seconds, whatever the store asks for: then it is asked again
local MOMENT, TOLD = 2, 5       -- where it names no time: seconds that it has, and that the client is told; a success
                                -- speaks for the store as long
local LOOK = 10                 -- seconds until one request looks
local MOST = 1000               -- objects that are remembered

--- A new one: the store may be asked.
-- @tparam[opt] function now gives seconds
-- @treturn table respite
function M.new(now)
  return setmetatable({ now = now or clock.now, objects = {}, count = 0, good_at = -math.huge }, Respite)
end

-- A time to be left alone.
local function pause_from(now, seconds)
  return { over_at = now + math.min(seconds or MOMENT, LONGEST), told_at = now + (seconds or TOLD),
    look_at = now + LOOK }
end

local function left_of(pause, now)
  return pause and now < pause.over_at and math.max(pause.told_at - now, 0) or nil
end

--- How long the client should wait.
-- @tparam string key
-- @treturn ?number seconds; nil: the store may be asked
function Respite:left(key)
  local now, whole = self.now(), self.whole
  local left = left_of(self.objects[key], now)
  if left then
    return left
  end
  left = left_of(whole, now)
  if left and now >= whole.look_at then
    whole.look_at = now + LOOK
    return nil
  end
  return left
end

-- Only of what names a time: others are asked for again at once, until two in a row have failed.
local function remember(self, key, now, seconds)
  if not self.objects[key] then
    if self.count >= MOST then
      self.objects, self.count = {}, 0
    end
    self.count = self.count + 1
  end
  self.objects[key] = pause_from(now, seconds)
end

--- Takes the outcome of a request.
-- @tparam string key
-- @tparam ?string code nil or false when all went well
-- @tparam[opt] number seconds that the store asks to wait
function Respite:note(key, code, seconds)
  local former, now = self.failed, self.now()
  self.failed = code == "unavailable" and key or nil
  if not self.failed then
    self.whole, self.good_at = nil, now
    return
  end
  if seconds then
    remember(self, key, now, seconds)
  end
  if former and former ~= key and now - self.good_at >= MOMENT then
    local pause = pause_from(now, seconds)
    if not self.whole or pause.over_at > self.whole.over_at then
      self.whole = pause
    end
  end
end

--- Asks the store, unless it is to be left alone.
-- @tparam string key
-- @tparam function ask
-- @param ... what it is given
-- @return what it gives; or nil, message, "unavailable", seconds
function Respite:guard(key, ask, ...)
  local left = self:left(key)
  if left then
    return nil, "storage: failed a moment ago, and is not asked yet", "unavailable", left
  end
  local result, message, code, seconds = ask(...)
  self:note(key, result == nil and code, seconds)
  return result, message, code, seconds
end

return M
