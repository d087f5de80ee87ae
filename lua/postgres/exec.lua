--- Runs PostgreSQL's programs: where they are, as which user, with what around them.
--
-- Owns fork and exec, the search for installed servers, and the question which processes live in a
-- data folder. Must not know what a cluster looks like inside or when it is started.
--
-- @module postgres.exec
local dirent = require "posix.dirent"
local fcntl = require "posix.fcntl"
local pwd = require "posix.pwd"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

--- The oldest major version that the SQL of this product runs on.
M.oldest = 14

local PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

local function is_executable(path)
  return unistd.access(path, "x") == 0
end

local function first_line(command)
  local pipe = io.popen(command .. " 2>/dev/null", "r")
  if not pipe then return nil end
  local line = pipe:read("l")
  pipe:close()
  return line
end

local function shell_quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- The major version of the server in `bin`; packagers who keep several put it in the path.
local function version_of(bin)
  local packaged = bin:match("^/usr/lib/postgresql/(%d+)/bin$") or bin:match("^/usr/pgsql%-(%d+)/bin$")
  local text = packaged or first_line(shell_quote(bin .. "/postgres") .. " --version") or ""
  return tonumber(text:match("(%d+)"))
end

local function packaged_folders(found)
  for folder, pattern in pairs { ["/usr/lib/postgresql"] = "^%d+$", ["/usr"] = "^pgsql%-%d+$" } do
    local names = stat.stat(folder) and dirent.dir(folder) or {}
    for _, name in ipairs(names) do
      if name:match(pattern) then found[#found + 1] = folder .. "/" .. name .. "/bin" end
    end
  end
end

local function other_folders(found)
  for folder in (os.getenv("PATH") or ""):gmatch("[^:]+") do
    found[#found + 1] = folder
  end
  found[#found + 1] = "/usr/local/pgsql/bin"
  found[#found + 1] = first_line("pg_config --bindir")
end

-- The server among `folders` that fits best: the major version asked for, else the newest.
local function best_of(folders, major, seen)
  local best
  for _, bin in ipairs(folders) do
    if is_executable(bin .. "/initdb") and is_executable(bin .. "/postgres") then
      local version = version_of(bin) or 0
      seen[#seen + 1] = tostring(version)
      local fits = version >= M.oldest and (major == nil or version == major)
      if fits and (best == nil or version > best.version) then
        best = { bin = bin, version = version }
      end
    end
  end
  return best
end

--- Finds an installed server.
-- @function find
-- @tparam[opt] integer major the version that a cluster was made by; any supported one when nil
-- @treturn[1] table `{bin = folder, version = major}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "missing" or "version"
function M.find(major)
  local seen, folders = {}, {}
  packaged_folders(folders)
  local best = best_of(folders, major, seen)
  if not best then
    folders = {}
    other_folders(folders)
    best = best_of(folders, major, seen)
  end
  if best then return best end
  if #seen == 0 then
    return nil, "postgres: no server is installed: `make deps` installs one", "missing"
  end
  return nil, ("postgres: version %s is needed, and installed is %s"):format(
    major and tostring(major) or (M.oldest .. " or newer"), table.concat(seen, ", ")), "version"
end

-- In the child: no descriptor of ours but the standard three, no input, nothing that pins a folder.
local function detach()
  for _, name in ipairs(dirent.dir("/proc/self/fd")) do
    local fd = tonumber(name)
    if fd and fd > 2 then unistd.close(fd) end
  end
  local null = fcntl.open("/dev/null", fcntl.O_RDWR)
  unistd.dup2(null, 0)
  unistd.dup2(null, 1)
  unistd.dup2(null, 2)
  unistd.chdir("/")
end

-- The whole command line: a clean environment, the owner's rights, output appended to the log by the
-- owner's own rights (root must not open a path that another user controls).
local function command_line(owner, log, argv)
  local line = { "env", "-i", "PATH=" .. PATH, "LC_ALL=C.UTF-8", "TZ=UTC" }
  local function append(list)
    table.move(list, 1, #list, #line + 1, line)
  end
  if owner.uid ~= unistd.geteuid() then
    append { "setpriv", "--reuid=" .. owner.uid, "--regid=" .. owner.gid, "--init-groups", "--" }
  end
  if log then append { "sh", "-c", 'exec "$@" >>"$0" 2>&1', log } end
  append(argv)
  return line
end

--- Starts a program as another user and does not wait for it.
-- @function spawn
-- @tparam table owner `{uid, gid}`
-- @tparam ?string log file that its output is appended to; nil throws it away
-- @tparam table argv program and arguments
-- @treturn[1] integer process id
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.spawn(owner, log, argv)
  local line = command_line(owner, log, argv)
  local pid, reason = unistd.fork()
  if not pid then
    return nil, ("postgres: %s: %s"):format(argv[1], reason), "fork"
  end
  if pid == 0 then
    -- A Lua error must not unwind into the caller's code twice.
    pcall(function()
      detach()
      local program = table.remove(line, 1)
      unistd.execp(program, line)
    end)
    unistd._exit(127)
  end
  return pid
end

--- Runs a program to its end.
-- @function run
-- @tparam table owner `{uid, gid}`
-- @tparam ?string log
-- @tparam table argv
-- @treturn boolean whether it exited with 0
function M.run(owner, log, argv)
  local pid = M.spawn(owner, log, argv)
  if not pid then return false end
  local _, how, status = wait.wait(pid)
  return how == "exited" and status == 0
end

--- Has this child of ours ended? Reaps it.
-- @function ended
-- @tparam integer pid
-- @treturn boolean
function M.ended(pid)
  local known, how = wait.wait(pid, wait.WNOHANG)
  if known then return how ~= "running" end
  return signal.kill(pid, 0) ~= 0 -- somebody else reaps our children
end

--- The owner of a new cluster: this user, or `postgres` for root, whom the server refuses.
-- @function owner
-- @tparam[opt] integer uid of an existing cluster's files
-- @treturn[1] table `{uid, gid, name}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "no_user"
function M.owner(uid)
  local me = unistd.geteuid()
  local entry
  if uid then
    entry = pwd.getpwuid(uid)
  elseif me == 0 then
    entry = pwd.getpwnam("postgres")
  else
    entry = pwd.getpwuid(me)
  end
  if not entry and not uid and me ~= 0 then
    return { uid = me, gid = unistd.getegid(), name = tostring(me) }
  end
  if not entry or entry.pw_uid == 0 then
    return nil, "postgres: the server refuses to run as root, and there is no user postgres to run it", "no_user"
  end
  return { uid = entry.pw_uid, gid = entry.pw_gid, name = entry.pw_name }
end

--- Is this process a server of this folder? Starts no process to find out: anybody may read a command line.
-- @function serves
-- @tparam integer pid
-- @tparam string folder
-- @treturn boolean
function M.serves(pid, folder)
  local file = io.open(("/proc/%d/cmdline"):format(pid), "r")
  if not file then return false end
  local line = file:read("a")
  file:close()
  return line:find("\0-D\0" .. folder .. "\0", 1, true) ~= nil
end

--- Does a live server, or what is left of one, have this folder as its own?
-- @function inhabited
-- @tparam table owner `{uid, gid}`
-- @tparam string folder
-- @tparam ?integer pid the server's, if known
-- @tparam[opt] boolean only asks about `pid` alone
-- @treturn boolean
function M.inhabited(owner, folder, pid, only)
  if pid and M.serves(pid, folder) then return true end
  if only and not pid then return false end
  -- Asked with the owner's rights: without CAP_SYS_PTRACE, as in a container, even root sees only its own.
  local script = 'for p in /proc/$2; do if [ "$p/cwd" -ef "$1" ]; then exit 0; fi; done; exit 1'
  return M.run(owner, nil, { "sh", "-c", script, "sh", folder, only and tostring(pid) or "[0-9]*" })
end

return M
