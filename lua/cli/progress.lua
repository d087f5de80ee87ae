--- Shows how far a long operation of this process has come, on a terminal.
--
-- What seals and sends large files does so in one call and tells nothing meanwhile. A child looks instead at how far
-- the files are read and written that this process has open (proc(5), fdinfo). Must not disturb what it looks at.
-- @module cli.progress
local dirent = require "posix.dirent"
local fcntl = require "posix.fcntl"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local term = require "cli.term"
local time = require "posix.time"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Watcher = {}
Watcher.__index = Watcher

local INTERVAL_NS = 200000000
local LARGE = 1 << 20

local function read_all(path)
  local file = io.open(path)
  local text = file and file:read "a"
  if file then
    file:close()
  end
  return text or ""
end

-- The regular files that a process has open: path, position, size, whether for writing.
local function open_files(pid)
  local list = {}
  local there, names = pcall(dirent.dir, ("/proc/%d/fd"):format(pid))
  for _, name in ipairs(there and names or {}) do
    local path = unistd.readlink(("/proc/%d/fd/%s"):format(pid, name))
    local info = path and path:sub(1, 1) == "/" and stat.stat(path)
    if info and stat.S_ISREG(info.st_mode) ~= 0 then
      local text = read_all(("/proc/%d/fdinfo/%s"):format(pid, name))
      local flags = tonumber(text:match "flags:%s*(%d+)" or "0", 8)
      list[#list + 1] = { path = path, size = info.st_size, at = tonumber(text:match "pos:%s*(%d+)" or "0"),
        writes = flags & (fcntl.O_WRONLY | fcntl.O_RDWR) ~= 0 }
    end
  end
  return list
end

--- How far a process is with a large file. One that is sent while it is made has a note beside it of what it will have.
-- @tparam integer pid
-- @tparam string folder where it prepares those
-- @treturn[1] table stage ("sealing" or "storing"), done, total (bytes)
-- @treturn[2] nil when it is at none
function M.look(pid, folder)
  local source, target, stored = 0, nil, nil
  for _, file in ipairs(open_files(pid)) do
    local is_prepared = file.path:sub(1, #folder + 1) == folder .. "/"
    if is_prepared and file.writes then
      target = file
    elseif is_prepared and not file.writes then
      stored = file
    elseif not file.writes and file.size >= LARGE then
      source = source + file.size
    end
  end
  if target and source > 0 then
    return { stage = "sealing", done = math.min(target.at, source), total = source }
  elseif stored and stored.size >= LARGE then
    return { stage = "storing", done = stored.at, total = tonumber(read_all(stored.path .. ".size")) or stored.size }
  end
end

local function show(seen)
  local share = seen.done / seen.total
  io.stderr:write(("\r\27[K  %s  %s  %s of %s"):format(seen.stage, term.bar(share, 30, term.green),
    term.size(seen.done), term.size(seen.total)))
end

-- Until it is killed, or nobody is left to look at.
local function run(pid, folder)
  local stage, furthest = nil, 0
  while unistd.getppid() == pid do
    local seen = M.look(pid, folder)
    if seen then
      furthest = seen.stage == stage and math.max(furthest, seen.done) or seen.done
      stage, seen.done = seen.stage, furthest
      show(seen)
    end
    time.nanosleep { tv_sec = 0, tv_nsec = INTERVAL_NS }
  end
end

--- Begins to show it, where standard error is a terminal.
-- @tparam string folder where large files are prepared
-- @treturn ?table watcher
function M.start(folder)
  if unistd.isatty(2) ~= 1 then
    return nil
  end
  local pid = unistd.getpid()
  local child = unistd.fork()
  if child == 0 then
    pcall(run, pid, folder)
    unistd._exit(0) -- what was inherited, such as the database, is not this child's to close
  end
  return child and setmetatable({ child = child }, Watcher)
end

--- Ends it and leaves an empty line.
function Watcher:stop()
  signal.kill(self.child, signal.SIGKILL)
  wait.wait(self.child)
  io.stderr:write "\r\27[K"
end

return M
