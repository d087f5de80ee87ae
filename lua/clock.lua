--- The monotonic clock.
-- @module clock
local time = require "posix.time"

local M = {}

--- Seconds since some fixed moment; never goes back.
-- @treturn number
function M.now()
  local t = time.clock_gettime(time.CLOCK_MONOTONIC)
  return t.tv_sec + t.tv_nsec / 1e9
end

return M
