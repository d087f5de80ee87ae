--- The private PostgreSQL cluster: made, started, found and stopped without an administrator.
--
-- Owns one folder: `data` (the cluster), `run` (its unix socket; it listens on no port) and `log`. Root's
-- cluster belongs to user postgres, and moves to /var/lib/atelier when that user cannot reach the folder.
-- Must not know what is stored in the cluster, nor touch any other cluster of the machine.
--
-- @module postgres
local create = require "postgres.create"
local errno = require "posix.errno"
local exec = require "postgres.exec"
local places = require "postgres.home"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"

local M = {}

local LOG_LIMIT = 8 * 1024 * 1024
local problem = places.problem

-- The server's own notes: pid, folder, start, port, socket folder, address, memory key, status.
local function read_notes(home)
  local file = io.open(home .. "/data/postmaster.pid", "r")
  if not file then return nil end
  local lines = {}
  for line in file:lines() do
    lines[#lines + 1] = line
  end
  file:close()
  return { pid = tonumber(lines[1]), socket = lines[5] or "", status = (lines[8] or ""):match("^%a*") }
end

-- The server's word that it is ready counts while the process that gave it lives and serves this folder.
local function is_up(home, notes)
  return notes ~= nil and notes.status == "ready" and notes.socket ~= "" and notes.pid ~= nil
    and exec.serves(notes.pid, home .. "/data") and stat.stat(notes.socket .. places.socket) ~= nil
end

local function describe(home, notes, started)
  local place = notes.socket:gsub("[^%w._~-]", function(c) return ("%%%02X"):format(c:byte()) end)
  return {
    url = ("postgresql://postgres@%s:%d/postgres"):format(place, places.port),
    socket = notes.socket,
    home = home,
    log = home .. "/log",
    pid = notes.pid,
    started = started,
  }
end

-- ==== starting =================================================================================

-- Waits while a server starts, stops or dies; true when it is up, false when the folder is free.
local function wait_for_other(home, owner, deadline)
  local notes = read_notes(home)
  while notes do
    if is_up(home, notes) then return true end
    if not exec.inhabited(owner, home .. "/data", notes.pid) then return false end
    if places.now() > deadline then
      return problem(home, "busy", "process %s neither serves nor ends", notes.pid or "?")
    end
    places.pause()
    notes = read_notes(home)
  end
  return false
end

-- Removes what a dead server left behind and a new one would trip over: it takes any process that has got
-- the old one's number since for a living server. Nobody lives in `data` when this is called.
local function clear_traces(home, folder)
  local notes = read_notes(home)
  if notes then
    local _, _, number = signal.kill(notes.pid or unistd.getpid(), 0)
    if number ~= errno.ESRCH then os.remove(home .. "/data/postmaster.pid") end
  end
  os.remove(folder .. places.socket)
  os.remove(folder .. places.socket .. ".lock")
end

local function start(home, owner, server, deadline)
  local folder, message, code = places.socket_folder(home, owner)
  if not folder then return nil, message, code end
  clear_traces(home, folder)
  if places.log_size(home) > LOG_LIMIT then os.rename(home .. "/log", home .. "/log.old") end
  local from = places.log_size(home)
  local pid
  pid, message, code = exec.spawn(owner, home .. "/log", {
    "setsid", server.bin .. "/postgres", "-D", home .. "/data", "-c", "listen_addresses=",
    "-c", "unix_socket_directories=" .. folder, "-c", "unix_socket_permissions=0700", "-c", "port=" .. places.port,
  })
  if not pid then return nil, message, code end
  while true do
    local notes = read_notes(home)
    if notes and notes.pid == pid and is_up(home, notes) then return describe(home, notes, true) end
    if exec.ended(pid) then return places.blame(home, "the server did not start", from) end
    if places.now() > deadline then
      return problem(home, "timeout", "the server is still starting (perhaps recovering): see %s/log", home)
    end
    places.pause()
  end
end

local function installed_for(home)
  local file = io.open(home .. "/data/PG_VERSION", "r")
  local major = file and tonumber(file:read("l"))
  if file then file:close() end
  if not major then return problem(home, "server", "data/PG_VERSION cannot be read: not a cluster") end
  local server, message, code = exec.find(major)
  if server then return server end
  return problem(home, code, "made by PostgreSQL %d: %s", major, (message:gsub("^postgres: ", "")))
end

-- With the lock held: makes what is missing and starts it.
local function ensure_locked(place, options, deadline)
  local owner, message, code = exec.owner(place.uid)
  if not owner then return nil, message, code end
  if unistd.geteuid() ~= 0 and owner.uid ~= unistd.geteuid() then
    return problem(place.home, "access", "it belongs to user %s", owner.name)
  end
  local home = place.home
  local server
  if home then
    server, message, code = installed_for(home)
  else
    server, message, code = exec.find()
  end
  if not server then return nil, message, code end
  if not home then
    home, message, code = places.settle(place, owner, options.say or function() end)
    if not home then return nil, message, code end
    local ok
    ok, message, code = create.create(home, owner, server, options.settings)
    if not ok then return nil, message, code end
  end
  local up
  up, message, code = wait_for_other(home, owner, deadline)
  if up == nil then return nil, message, code end
  if up then return describe(home, read_notes(home), false) end
  return start(home, owner, server, deadline)
end

-- ==== the three calls ==========================================================================

local function check_options(options, known)
  for key in pairs(options) do
    if not known[key] then error(("postgres: unknown option '%s'"):format(tostring(key)), 3) end
  end
  if type(options.dir) ~= "string" or options.dir == "" then error("postgres: option 'dir' must be a path", 3) end
  return places.absolute(options.dir), places.now() + (options.timeout or 120)
end

--- The cluster, made and started when it is not yet. Costs two small files when it is up.
-- @function ensure
-- @tparam table options `dir`; optional `timeout` (seconds, 120), `settings` (name → value, for a new cluster),
-- `say` (called with a sentence when the cluster has to live elsewhere)
-- @treturn[1] table `{url, socket, home, log, pid, started}`; `started`: whether this call started it
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "missing", "version", "no_user", "access", "busy", "timeout", "disk_full", "server"
function M.ensure(options)
  local dir, deadline = check_options(options, { dir = 1, timeout = 1, settings = 1, say = 1 })
  local place, message, code = places.locate(dir)
  if not place then return nil, message, code end
  local notes = place.home and read_notes(place.home)
  if is_up(place.home, notes) then return describe(place.home, notes, false) end
  local held
  held, message, code = places.lock(dir, deadline)
  if not held then return nil, message, code end
  local guard <close> = held
  place, message, code = places.locate(dir) -- another process may have made it meanwhile
  if not place then return nil, message, code end
  return ensure_locked(place, options, deadline)
end

--- What is known of the cluster, without changing anything.
-- @function status
-- @tparam table options `dir`
-- @treturn[1] table `{running, home, url, socket, log, pid}`, without the last four when it does not run, and
-- without `home` when there is none
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access"
function M.status(options)
  local dir = check_options(options, { dir = 1 })
  local place, message, code = places.locate(dir)
  if not place then return nil, message, code end
  local notes = place.home and read_notes(place.home)
  if not is_up(place.home, notes) then return { running = false, home = place.home } end
  local found = describe(place.home, notes)
  found.running = true
  return found
end

--- Stops the cluster, ending its connections; returns when the server is gone.
-- @function stop
-- @tparam table options `dir`; optional `timeout` (seconds, 120)
-- @treturn[1] boolean whether a server ran
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access", "busy", "timeout"
function M.stop(options)
  local dir, deadline = check_options(options, { dir = 1, timeout = 1 })
  local place, message, code = places.locate(dir)
  if not place then return nil, message, code end
  if not place.home then return false end
  local held
  held, message, code = places.lock(dir, deadline)
  if not held then return nil, message, code end
  local guard <close> = held
  local owner
  owner, message, code = exec.owner(place.uid)
  if not owner then return nil, message, code end
  local notes, data = read_notes(place.home), place.home .. "/data"
  if not notes or not exec.inhabited(owner, data, notes.pid, true) then return false end
  signal.kill(notes.pid, signal.SIGINT) -- a "fast" shutdown: open transactions are rolled back
  while read_notes(place.home) or exec.inhabited(owner, data, notes.pid) do
    exec.ended(notes.pid) -- reaps it when it is our own child
    if places.now() > deadline then return problem(place.home, "timeout", "the server does not stop") end
    places.pause()
  end
  return true
end

return M
