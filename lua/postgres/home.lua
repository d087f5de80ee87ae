--- Where a private cluster lives, and who may touch it.
--
-- Owns the folders around the cluster: finding them, making them for the right user, the folder for the
-- socket, the log, and the lock that lets one process at a time make, start or stop. Must not know what is inside
-- `data`, nor run a server.
--
-- @module postgres.home
local errno = require "posix.errno"
local exec = require "postgres.exec"
local fcntl = require "posix.fcntl"
local stat = require "posix.sys.stat"
local stdlib = require "posix.stdlib"
local time = require "posix.time"
local unistd = require "posix.unistd"

local M = {}

--- The name of the socket in its folder. There is no port; the number is only part of the name.
M.port = 5432
M.socket = "/.s.PGSQL." .. M.port

local LONGEST = 107 -- bytes in the path of a unix socket
local FALLBACK = "/var/lib/atelier"
local PRIVATE, PUBLIC = tonumber("700", 8), tonumber("755", 8)

--- The error triple of everything that concerns one folder.
-- @function problem
-- @tparam string dir
-- @tparam string code
-- @tparam string reason a format, then its values
-- @return nil, message, code
function M.problem(dir, code, reason, ...)
  return nil, ("postgres: %s: "):format(dir) .. reason:format(...), code
end

local problem = M.problem

--- The bytes in the log that the cluster's programs write.
-- @function log_size
-- @tparam string home
-- @treturn integer
function M.log_size(home)
  local s = stat.lstat(home .. "/log")
  return s and s.st_size or 0
end

--- A failure of the cluster's programs, with what they said since the log had `from` bytes.
-- @function blame
-- @tparam string home
-- @tparam string what
-- @tparam integer from
-- @return nil, message, code: "disk_full" or "server"
function M.blame(home, what, from)
  local text = ""
  local file = io.open(home .. "/log", "r")
  if file then
    file:seek("set", math.max(from, M.log_size(home) - 2000))
    text = file:read("a"):gsub("\n+$", "")
    file:close()
  end
  local code = text:find("No space left on device", 1, true) and "disk_full" or "server"
  local said = text ~= "" and ", and said:\n" .. text:gsub("[^\n]+", "  | %0") or ""
  return problem(home, code, "%s%s", what, said)
end

--- Seconds on a clock that nobody sets.
-- @function now
-- @treturn number
function M.now()
  local t = time.clock_gettime(time.CLOCK_MONOTONIC)
  return t.tv_sec + t.tv_nsec * 1e-9
end

--- The moment between two looks at something that another process changes.
-- @function pause
function M.pause()
  time.nanosleep { tv_sec = 0, tv_nsec = 5 * 1000 * 1000 }
end

-- FNV-1a: names a folder after another one; no secret depends on it.
local function short_name(text)
  local h = -3750763034362895579 -- 0xcbf29ce484222325
  for i = 1, #text do
    h = (h ~ text:byte(i)) * 0x100000001b3
  end
  return ("%016x"):format(h)
end

local function make_folders(path, mode)
  if stat.stat(path) then return true end
  local parent = path:match("^(.+)/[^/]+$")
  if parent then make_folders(parent, PUBLIC) end
  local _, reason, number = stat.mkdir(path, mode)
  if reason and number ~= errno.EEXIST then return nil, reason end
  return true
end

--- An absolute path without links, also of a folder that is not there yet.
-- @function absolute
-- @tparam string path
-- @treturn string
function M.absolute(path)
  local real = stdlib.realpath(path)
  if real then return real end
  local parent, name = path:match("^(.*)/+([^/]+)/*$")
  if not parent then
    parent, name = ".", path
  elseif parent == "" then
    parent = "/"
  end
  return M.absolute(parent):gsub("/$", "") .. "/" .. name
end

--- Where this folder's cluster is: in it, or at the fallback, or nowhere yet.
-- @function locate
-- @tparam string dir absolute
-- @treturn[1] table `{home, uid}` of a cluster, or `{dir, other}`: the two places where one may be made
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access"
function M.locate(dir)
  if dir:find("%c") then return problem(dir:gsub("%c", "?"), "access", "control characters in the path") end
  local other = FALLBACK .. "/" .. short_name(dir)
  local here, _, number = stat.stat(dir .. "/data")
  if here then return { home = dir, uid = here.st_uid } end
  local there = stat.stat(other .. "/data")
  if there then return { home = other, uid = there.st_uid } end
  if number == errno.EACCES then return problem(dir, "access", "it belongs to another user") end
  return { dir = dir, other = other }
end

--- Holds the folder's lock until the value is closed.
-- @function lock
-- @tparam string dir absolute
-- @tparam number deadline by `now`
-- @treturn[1] table a value for `local x <close>`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access" or "busy"
function M.lock(dir, deadline)
  local ok, reason = make_folders(dir:match("^(.+)/[^/]+$") or "/", PUBLIC)
  if not ok then return problem(dir, "access", "%s", reason) end
  -- Beside the folder, not in it: root must not open what user postgres could replace.
  local fd, why = fcntl.open(dir .. ".lock", fcntl.O_RDWR | fcntl.O_CREAT | fcntl.O_CLOEXEC, tonumber("600", 8))
  if not fd then return problem(dir, "access", "%s", why) end
  local claim = { l_type = fcntl.F_WRLCK, l_whence = unistd.SEEK_SET, l_start = 0, l_len = 0 }
  while fcntl.fcntl(fd, fcntl.F_SETLK, claim) ~= 0 do
    if M.now() > deadline then
      unistd.close(fd)
      return problem(dir, "busy", "another process has been starting or stopping it for too long")
    end
    M.pause()
  end
  return setmetatable({}, { __close = function() unistd.close(fd) end })
end

-- Makes a folder private to the owner; one that is somebody else's already is refused, also behind a link.
local function own(path, owner)
  local ok, reason = make_folders(path, PRIVATE)
  if not ok then return nil, reason end
  local s = stat.lstat(path)
  if not s or stat.S_ISDIR(s.st_mode) == 0 then return nil, path .. ": not a folder" end
  if s.st_uid ~= owner.uid then
    if s.st_uid ~= unistd.geteuid() then return nil, path .. ": belongs to another user" end
    local _, why = unistd.chown(path, owner.uid, owner.gid)
    if why then return nil, why end
  end
  local _, why = stat.chmod(path, PRIVATE)
  return why == nil, why
end

local function can_use(owner, path)
  return exec.run(owner, nil, { "sh", "-c", 'cd "$1" && test -w .', "sh", path })
end

--- Gives a new cluster a home that its owner can reach.
-- @function settle
-- @tparam table place `{dir, other}`
-- @tparam table owner
-- @tparam function say called with a sentence when it is not `dir`
-- @treturn[1] string home
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access"
function M.settle(place, owner, say)
  local ok, reason = own(place.dir, owner)
  if not ok then return problem(place.dir, "access", "%s", reason) end
  if can_use(owner, place.dir) then return place.dir end
  if unistd.geteuid() ~= 0 then return problem(place.dir, "access", "it cannot be written to") end
  unistd.rmdir(place.dir)
  if not stat.stat(FALLBACK) then
    make_folders(FALLBACK, PUBLIC)
    stat.chmod(FALLBACK, PUBLIC) -- whatever root's umask says
  end
  ok, reason = own(place.other, owner)
  if not ok or not can_use(owner, place.other) then
    return problem(place.other, "access", "%s", reason or "user " .. owner.name .. " cannot reach it")
  end
  say(("user %s cannot reach %s; the database lives in %s"):format(owner.name, place.dir, place.other))
  return place.other
end

--- The folder for the socket: `run`, or one under a short name when that path is too long for a socket or
-- holds what the server's list of folders gives a meaning to.
-- @function socket_folder
-- @tparam string home
-- @tparam table owner
-- @treturn[1] string path
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "access"
function M.socket_folder(home, owner)
  local folder = home .. "/run"
  if #folder + #M.socket > LONGEST or folder:find("[^%w/._+-]") then
    local base = unistd.geteuid() == 0 and "/run/atelier-" or ("/tmp/atelier-%d-"):format(owner.uid)
    folder = base .. short_name(home)
  end
  local ok, reason = own(folder, owner)
  if not ok then return problem(home, "access", "no place for the socket: %s", reason) end
  return folder
end

return M
