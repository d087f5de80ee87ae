--- Tries again what may go well a moment later. Runs in tasks of storage.reactor.
-- @module storage.tries
local reactor = require "storage.reactor"

local M = {}

--- What a step gives as seconds to wait when it has had tries of its own, and needs no more.
M.ENOUGH = math.huge

local TRIES = 4
local FIRST_DELAY, LONGEST_DELAY = 0.2, 10 -- seconds between tries; doubled, by chance up to that

--- Runs a step again while the store is out of reach, or after its keys were renewed. A store that asks for more
-- patience than a task has is not asked again here.
-- @tparam function step → result | nil, message, code, seconds that the store asks to wait
-- @tparam table options check(): a result when the step was done after all, asked before another try; mark(fresh):
--   what tells one set of keys from another; patience: seconds that all pauses together may take, where somebody waits
-- @return what the last step gave
function M.persist(step, options)
  local check, mark, left = options.check, options.mark, options.patience or math.huge
  local delay = FIRST_DELAY
  for try = 1, TRIES do
    local keys = mark()
    local result, message, code, seconds = step()
    local is_renewed = code == "denied" and mark(true) ~= keys
    if result or code ~= "unavailable" and not is_renewed then
      return result, message, code, seconds
    elseif try == TRIES or not is_renewed and (seconds or 0) > LONGEST_DELAY then
      return nil, message, code, seconds
    end
    if not is_renewed then
      local pause = math.max(seconds or 0, delay * (0.5 + math.random() / 2))
      left = left - pause
      if left < 0 then
        return nil, message, code, seconds
      end
      reactor.pause(pause)
      delay = math.min(delay * 2, LONGEST_DELAY)
    end
    local done = check and check()
    if done then
      return done
    end
  end
end

return M
