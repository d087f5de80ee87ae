--- Lets a signal that would end the process wait until what is half done has been taken back.
-- A second one does not wait. Must not know what is being done.
-- @module ate.interrupt
local signal = require "posix.signal"
local unistd = require "posix.unistd"

local M = {}

local ENDING <const> = { signal.SIGINT, signal.SIGTERM, signal.SIGHUP }
local FLAGS <const> = signal.SA_RESTART | signal.SA_RESETHAND

--- Runs work that a signal must not cut off. Signals that are ignored, or have a handler already, are left alone.
-- @tparam function work is given a function that tells whether to give up now; its results are returned, unless a
--   signal came: then it ends the process after all
-- @return what work returns
function M.guard(work)
  local caught
  local function note(number) caught = caught or number end
  local held = {}
  for _, number in ipairs(ENDING) do
    local before = signal.signal(number, signal.SIG_DFL) -- with `note` at once, luaposix would give that as the former
    if before == signal.SIG_DFL then
      held[#held + 1] = number
      signal.signal(number, note, FLAGS)
    else
      signal.signal(number, before, signal.SA_RESTART)
    end
  end
  local results = table.pack(pcall(work, function() return caught ~= nil end))
  for _, number in ipairs(held) do signal.signal(number, signal.SIG_DFL) end
  if caught then signal.kill(unistd.getpid(), caught) end
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

return M
