--- From a command to the master: takes the lock and the socket, then executes this program anew as the master.
--
-- So that what is in the way (a second service, a taken port) is a refusal of the command, and the master starts small.
-- @module daemon.launch
local clock = require "clock"
local dirent = require "posix.dirent"
local errno = require "posix.errno"
local fcntl = require "posix.fcntl"
local host = require "atelier.host"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local stdlib = require "posix.stdlib"
local time = require "posix.time"
local unistd = require "posix.unistd"

local M = {}
local Launch = {}
Launch.__index = Launch

local WHOLE = { l_type = fcntl.F_WRLCK, l_whence = 0, l_start = 0, l_len = 0 }

local function make_folder(path, mode)
  if stat.stat(path) then
    return true
  end
  local parent = path:match "^(.+)/[^/]+$"
  if parent then
    make_folder(parent, "755")
  end
  local _, message, number = stat.mkdir(path, tonumber(mode, 8))
  if message and number ~= errno.EEXIST then
    return nil, ("serve: %s"):format(message), "access"
  end
  return true
end

-- A snapshot of a process that is no more would be counted for ever.
local function clear_snapshots(run)
  for _, name in ipairs(dirent.dir(run)) do
    if name:match "%.prom$" or name:match "%.new$" then
      os.remove(run .. "/" .. name)
    end
  end
end

-- The lock goes with the process, however it ends.
local function lock(run)
  local path = run .. "/lock"
  local fd, message = fcntl.open(path, fcntl.O_RDWR | fcntl.O_CREAT, tonumber("600", 8))
  if not fd then
    return nil, ("serve: %s: %s"):format(path, message), "access"
  end
  if fcntl.fcntl(fd, fcntl.F_SETLK, WHOLE) then
    return fd
  end
  local other = { l_type = fcntl.F_WRLCK, l_whence = 0, l_start = 0, l_len = 0 }
  local _, pid = pcall(function()
    fcntl.fcntl(fd, fcntl.F_GETLK, other)
    return other.l_pid
  end)
  unistd.close(fd)
  return nil, ("serve: a service runs over %s already%s: see `atelier status`"):format(run:gsub("/run$", ""),
    math.type(pid) == "integer" and pid > 0 and (", process %d"):format(pid) or ""), "running"
end

--- A service's address for people and programs of this host.
-- @tparam string address that it listens on
-- @tparam integer port
-- @treturn string
function M.address(address, port)
  if address == "0.0.0.0" or address == "::" then
    address = "127.0.0.1"
  end
  return ("http://%s:%d"):format(address:find(":", 1, true) and "[" .. address .. "]" or address, port)
end

-- ==== what a killed service left behind ====

local DRAINING = 5 -- seconds that its fronts may take to leave the socket

local function slurp(path)
  local file = io.open(path, "r")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  return text or ""
end

-- Processes of the service over this folder whose master is gone: they end by themselves, unless somebody stopped them.
local function leftovers(run)
  local found = {}
  for _, name in ipairs(dirent.dir "/proc") do
    local pid = tonumber(name)
    if pid and slurp("/proc/" .. name .. "/cmdline"):find "^atelier: %a"
      and ("\0" .. slurp("/proc/" .. name .. "/environ")):find("\0ATELIER_RUN=" .. run .. "\0", 1, true) then
      found[#found + 1] = pid
    end
  end
  return found
end

local function signal_all(pids, number)
  for _, pid in ipairs(pids) do
    signal.kill(pid, number)
  end
end

-- Tries again while there is somebody to wait for; who does not go in time is killed. Looks for them first: one that is
-- gone by the time the socket is taken may have held it until then.
local function listen_after_them(run, options)
  local deadline = clock.now() + DRAINING
  while true do
    local others = leftovers(run)
    local server, message, code = httpd.listen(options)
    if code ~= "EADDRINUSE" or not others[1] then
      return server, message, code
    end
    signal_all(others, clock.now() < deadline and signal.SIGCONT or signal.SIGKILL)
    time.nanosleep { tv_sec = 0, tv_nsec = 20 * 1000 * 1000 }
  end
end

-- ==== a launch ====

--- What the master of this state folder told last, see `daemon.report`; nil when there is none. One that was killed
-- leaves it behind.
-- @tparam table config
-- @treturn ?table state
function M.state(config)
  local text = slurp(config.state_dir .. "/run/master.json")
  return text ~= "" and json.decode(text) or nil
end

--- Takes what one service alone can have: the state folder's lock.
-- @tparam table config
-- @treturn[1] table launch
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "running" or "access"
function M.begin(config)
  local run = config.state_dir .. "/run"
  local ok, message, code = make_folder(config.state_dir, "755")
  if ok then
    ok, message, code = make_folder(run, "700")
  end
  if not ok then
    return nil, message, code
  end
  local fd
  fd, message, code = lock(run)
  if not fd then
    return nil, message, code
  end
  clear_snapshots(run)
  signal_all(leftovers(run), signal.SIGCONT) -- a stopped one would never hear that it is alone
  return setmetatable({ config = config, run = run, lock_fd = fd }, Launch)
end

--- Opens the socket.
-- @tparam[opt] boolean any another port will do when the configured one is taken
-- @treturn[1] integer port
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code an errno, or "address"
function Launch:listen(any)
  local address, port = self.config.listen_host, self.config.listen_port
  local server, message, code = listen_after_them(self.run, { host = address, port = port })
  if not server and code == "EADDRINUSE" and any then
    server, message, code = httpd.listen { host = address, port = 0 }
  end
  if not server and code == "EADDRINUSE" then
    return nil, ("serve: port %d of %s is taken by another program: set listen_port or ATELIER_PORT"):format(port,
      address), code
  elseif not server then
    return nil, ("serve: cannot listen on %s, port %d: %s"):format(address, port, message), code
  end
  self.server = server
  return server:port()
end

--- Where the service will be reached.
-- @treturn string
function Launch:url()
  return M.address(self.config.listen_host, self.server:port())
end

--- The private cluster was started for this service: it stops with it. If the service is killed instead, the cluster is
-- the next one's to stop.
function Launch:own_postgres()
  local file = io.open(self.run .. "/postgres", "w")
  if file then
    file:close()
  end
end

--- Becomes the master; returns only when that fails.
-- @tparam table options watch, pid_file, json (tell on standard output once it serves);
--   private: "1" when a private cluster may be used, "only" when nothing else
-- @treturn nil
-- @treturn string message
-- @treturn string code
function Launch:go(options)
  local is_ours = options.private and stat.stat(self.run .. "/postgres")
  local listen_fd = self.server:fd()
  for _, fd in ipairs { listen_fd, self.lock_fd } do
    fcntl.fcntl(fd, fcntl.F_SETFD, 0)
  end
  stdlib.setenv("ATELIER_PRIVATE", options.private) -- nil removes it
  stdlib.setenv("ATELIER_PROCESS", "master")
  stdlib.setenv("ATELIER_MASTER", assert(json.encode {
    run = self.run, host = self.config.listen_host, listen_fd = listen_fd, lock_fd = self.lock_fd,
    log = { level = self.config.log_level, format = self.config.log_format },
    watch = options.watch, pid_file = options.pid_file, json = options.json,
    postgres = is_ours and self.config.state_dir .. "/postgres" or nil,
  }))
  io.stdout:flush()
  local _, message = unistd.exec(host.exe, { [0] = "atelier: master" })
  return nil, "serve: " .. tostring(message), "exec"
end

return M
