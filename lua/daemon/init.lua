--- The processes of the service: what each one runs, by the title that it was started with.
--
-- Owns the way in and the way out: an error that nobody caught is logged whole, told to the master in one line, and
-- ends the process. Must not know what a process does.
-- @module daemon
local log = require "log"

local M = {}

local PROCESSES = { master = true, check = true, front = true, worker = true, keeper = true }

-- Of a script that does not compile, what and where, and not by whom it was wanted.
local function first_line(text)
  return (tostring(text):gsub("^error loading module '[^\n]*:\n%s*", ""):match "^[^\n]*")
end

-- A child says why it ends; the master knows from its exit code alone that it did.
local function run_child(process, kind)
  local ok, code, message = xpcall(function()
    return require("daemon." .. kind).main(process)
  end, function(problem)
    return type(problem) == "table" and problem or debug.traceback(tostring(problem), 2)
  end)
  if ok and code then
    return code
  end
  message = ok and message or type(code) == "table" and code.message or code
  log.error("process failed", { reason = message })
  process:fail(first_line(message))
  return 1
end

--- Runs the process that the title names.
-- @tparam table argv argv[0] is the title, as in "atelier: front 1"
-- @treturn integer exit code
function M.main(argv)
  local name = argv[0]:match "^atelier: (.+)$"
  local kind = name and name:match "^%a+"
  if not PROCESSES[kind] then
    io.stderr:write(("atelier: %q is no process of the service\n"):format(argv[0]))
    return 2
  end
  if kind == "master" then
    return require("daemon.master").main()
  end
  local process, message = require("daemon.process").open(name)
  if not process then
    io.stderr:write("atelier: ", message, "\n")
    return 2
  end
  return run_child(process, kind)
end

return M
