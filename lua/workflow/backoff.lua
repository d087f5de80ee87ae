--- The wait between two attempts to reach the database.
-- @module workflow.backoff
local clock = require "clock"
local time = require "posix.time"

local M = {}

local LONGEST = 10      -- seconds
local LONGEST_LAST = 0.5 -- of a process that is to end, and has something left to tell first

--- Waits: longer each time, and by chance, since the processes of a host should not all come back at one moment.
-- @tparam integer tries how many attempts have failed
-- @tparam table process its field `stopping` ends the wait, or makes all that follow short
-- @tparam[opt] function on_tick called about twice a second
function M.wait(tries, process, on_tick)
  local was_stopping = process.stopping
  local longest = was_stopping and LONGEST_LAST or LONGEST
  local left = math.min(longest, 0.1 * 2 ^ tries) * (0.5 + math.random() / 2)
  local deadline = clock.now() + left
  while left > 0 and process.stopping == was_stopping do
    local slice = math.min(left, 0.5)
    time.nanosleep { tv_sec = 0, tv_nsec = slice * 1e9 // 1 | 0 }
    if on_tick then
      on_tick()
    end
    left = deadline - clock.now()
  end
end

return M
