--- Runs the specs inside the program: `atelier run spec/run.lua [FILE or FOLDER …]`, all of spec/ by default.
--
-- Each file runs in a process of its own, two at a time: a crash is one failure and the rest goes on, and every file
-- starts without live handles. What failed is shown once more at the end, so that the last lines of a log suffice; the
-- very last is `N passed, N failed`.
local host = require "atelier.host"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local AT_ONCE = 2
local LIMIT = 1800 -- seconds for a file: one that hangs is a failure, not the end of the run

-- A file that failed may leave processes of ours behind. They hold what was open here when they began, such as the pipe
-- to the scratch cluster's keeper, whose end would be awaited for ever.
local function end_children()
  local own = unistd.readlink "/proc/self/exe"
  local file = io.open(("/proc/self/task/%d/children"):format(unistd.getpid()))
  for pid in (file and file:read "a" or ""):gmatch "%d+" do
    if unistd.readlink(("/proc/%s/exe"):format(pid)) == own then
      signal.kill(math.tointeger(tonumber(pid)), signal.SIGKILL)
    end
  end
  if file then
    file:close()
  end
end

local function in_this_process(path)
  -- Busted ends by os.exit, which closes this before it collects what waits for them.
  local ending <close> = setmetatable({}, { __close = end_children }) -- luacheck: ignore 211/ending
  -- Of the ordinary build, whatever the program's: specs also load the modules in stock Lua, which has no sanitizer.
  package.cpath = host.root .. "/build/lib/?.so;" .. package.cpath
  package.path = package.path .. ";./?.lua"
  arg = { [0] = arg[0], "--output=spec/support/summary.lua", "--pattern=_spec%.lua$",
    "--exclude-tags=" .. (os.getenv "SPEC_EXCLUDE" or ""), path } -- luacheck: ignore 121
  require "busted.runner" { standalone = false }
end

local function lines_of(command)
  local lines, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do
    lines[#lines + 1] = line
  end
  pipe:close()
  return lines
end

local function find_specs(places)
  local quoted = {}
  for i, place in ipairs(places) do
    quoted[i] = "'" .. place:gsub("'", "'\\''") .. "'"
  end
  return lines_of(("find %s -name '*_spec.lua' | sort -u"):format(table.concat(quoted, " ")))
end

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  os.remove(path)
  return text
end

local function start(path)
  local log = os.tmpname()
  local pid = assert(unistd.fork())
  if pid == 0 then
    stdlib.setenv("ATELIER_SPEC_FILE", path)
    -- timeout(1) makes a process group of its own, so that what a failing file leaves behind can be ended with it.
    local line = 'exec timeout -k 10 "$3" "$0" run spec/run.lua "$1" >"$2" 2>&1 </dev/null'
    unistd.exec("/bin/sh", { "-c", line, host.exe, path, log, tostring(LIMIT) })
    unistd._exit(127)
  end
  return pid, { path = path, log = log }
end

local total = { passed = 0, failed = 0, skipped = 0 }
local failures = {} -- texts: what each file that failed printed, but for its line of dots

-- What a file printed is shown whole, but for its closing line; one that did not get that far has failed.
local function collect(job, how, code)
  local text = slurp(job.log)
  local body, passed, failed, skipped = text:match "^(.-)\n?(%d+) passed, (%d+) failed([^\n]*)\n$"
  local late = tonumber(failed) == 0 and code ~= 0
  if not passed or late then
    local whole = ("%s%s: did not end well (%s %s)\n"):format(text, job.path, how, code)
    io.stdout:write(whole)
    failures[#failures + 1] = "\n" .. whole:sub(-4000)
    total.failed = total.failed + 1
  end
  if passed then
    io.stdout:write(late and "" or body, late and "" or "\n")
    if tonumber(failed) > 0 then
      failures[#failures + 1] = ("\n%s%s\n"):format(job.path, body:match "\n.*$" or "")
    end
    total.passed = total.passed + tonumber(passed)
    total.failed = total.failed + tonumber(failed)
    total.skipped = total.skipped + (tonumber(skipped:match "%d+") or 0)
  end
  io.stdout:flush()
end

local function run_all(paths)
  local running, count, next_one = {}, 0, 1
  while count > 0 or next_one <= #paths do
    while count < AT_ONCE and next_one <= #paths do
      local pid, job = start(paths[next_one])
      running[pid] = job
      count, next_one = count + 1, next_one + 1
    end
    local pid, how, code = wait.wait(-1)
    if running[pid] then
      signal.kill(-pid, signal.SIGKILL)
      collect(running[pid], how, code)
      running[pid] = nil
      count = count - 1
    end
  end
end

if arg[1] and os.getenv "ATELIER_SPEC_FILE" == arg[1] then
  in_this_process(arg[1])
else
  run_all(find_specs(arg[1] and arg or { "spec" }))
  io.stdout:write(failures[1] and "\n== what failed\n" or "", table.concat(failures))
  io.stdout:write(("\n%d passed, %d failed"):format(total.passed, total.failed))
  io.stdout:write(total.skipped > 0 and (", %d skipped\n"):format(total.skipped) or "\n")
  return total.failed == 0 and total.passed > 0 and 0 or 1
end
