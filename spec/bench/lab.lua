--- What every benchmark needs: a scratch database with customers, processes and their CPU time, medians, a shell.
-- @module spec.bench.lab
local clock = require "clock"
local host = require "atelier.host"
local pg = require "atelier.pg"
local postgres = require "postgres"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local time = require "posix.time"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

M.root = host.root
M.folder = host.root .. "/build/bench"
local TICKS = 100 -- USER_HZ, the unit of /proc/PID/stat (proc(5))

--- Runs a shell command and returns what it prints; ends the benchmark when it fails.
function M.shell(command)
  local pipe = assert(io.popen(command, "r"))
  local text = pipe:read "a"
  local ok, _, code = pipe:close()
  if not ok then
    error(("command failed with %s: %s\n%s"):format(code, command, text), 2)
  end
  return text
end

function M.pause(seconds)
  time.nanosleep { tv_sec = seconds // 1 | 0, tv_nsec = (seconds % 1 * 1e9) // 1 | 0 }
end

function M.median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local middle = #sorted // 2
  return #sorted % 2 == 1 and sorted[middle + 1] or (sorted[middle] + sorted[middle + 1]) / 2
end

local function cpu_model()
  for line in io.lines "/proc/cpuinfo" do
    local name = line:match "^model name%s*:%s*(.*)"
    if name then
      return name
    end
  end
  return "unknown processor"
end

--- One line that names the machine.
function M.machine()
  local cores = M.shell("nproc"):gsub("%s", "")
  return ("%s, %s cores, %s, %s"):format(cpu_model(), cores, M.shell("uname -sr"):gsub("\n", ""), host.lua)
end

--- A private cluster for benchmarks: durable, as in production.
function M.cluster()
  local cluster = assert(postgres.ensure { dir = M.folder .. "/postgres" })
  local admin <close> = assert(pg.connect(cluster.url))
  return cluster, admin:parameter "server_version"
end

--- A fresh database in the cluster.
-- @treturn string its address
function M.database(cluster, name)
  local admin <close> = assert(pg.connect(cluster.url))
  assert(admin:exec(("drop database if exists %s with (force)"):format(name)))
  assert(admin:exec(("create database %s"):format(name)))
  return (cluster.url:gsub("/[^/?]*$", "/" .. name))
end

local function stat_of(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  local text = file and file:read "a"
  if file then
    file:close()
  end
  return text and text:match "%) (.*)"
end

-- Seconds of processor time of a process and of its children that ended.
local function cpu_of(pid)
  local fields, i = {}, 2
  for word in (stat_of(pid) or ""):gmatch "%S+" do
    i = i + 1
    fields[i] = word
  end
  return ((fields[14] or 0) + (fields[15] or 0) + (fields[16] or 0) + (fields[17] or 0)) / TICKS
end

--- Seconds of processor time so far of a process and of its children, those that ended and those that run.
-- @tparam integer pid
-- @treturn number
function M.family_cpu(pid)
  local total = cpu_of(pid)
  for child in M.shell(("pgrep -P %d || true"):format(pid)):gmatch "%d+" do
    total = total + cpu_of(tonumber(child))
  end
  return total
end

--- Starts the program in the background.
-- @tparam {string,...} words
-- @tparam table env
-- @treturn table process: cpu(), stop()
function M.start(words, env)
  local pid = assert(unistd.fork())
  if pid == 0 then
    for name, value in pairs(env) do
      stdlib.setenv(name, value)
    end
    local argv = { [0] = "atelier", table.unpack(words) }
    unistd.exec(host.exe, argv)
    unistd._exit(127)
  end
  local process = {}
  function process.cpu()
    return M.family_cpu(pid)
  end
  function process.stop()
    signal.kill(pid, signal.SIGTERM)
    wait.wait(pid)
  end
  return process
end

--- Waits until a condition holds, looking every 10 ms.
function M.await(condition, seconds, what)
  local deadline = clock.now() + seconds
  while not condition() do
    if clock.now() > deadline then
      error(("not within %d s: %s"):format(seconds, what), 2)
    end
    M.pause(0.01)
  end
end

return M
