--- Makes a new private cluster in its home.
--
-- Owns initdb and the settings that a new cluster starts with. Must not know who asks, or start a server.
--
-- @module postgres.create
local exec = require "postgres.exec"
local fcntl = require "posix.fcntl"
local places = require "postgres.home"
local unistd = require "posix.unistd"

local M = {}

local function total_memory_mb()
  local file = io.open("/proc/meminfo", "r")
  if not file then return 1024 end
  local kb = tonumber(file:read("a"):match("MemTotal:%s*(%d+)"))
  file:close()
  return (kb or 1048576) // 1024
end

local function settings_text(settings)
  local values = {
    jit = "off", -- gains nothing for short queries, and costs them milliseconds
    log_timezone = "UTC",
    timezone = "UTC",
    shared_buffers = ("%dMB"):format(math.max(32, math.min(512, total_memory_mb() // 8))),
  }
  for name, value in pairs(settings or {}) do
    if not tostring(name):match("^[%a_][%w_.]*$") then error("postgres: not the name of a setting: " .. name) end
    values[name] = tostring(value)
  end
  local lines = {}
  for name, value in pairs(values) do
    lines[#lines + 1] = ("%s = '%s'\n"):format(name, (value:gsub("'", "''")))
  end
  table.sort(lines)
  return "\n# Set by Atelier when it made this cluster; yours to change.\n" .. table.concat(lines)
end

local function sync_folder(path)
  local fd = fcntl.open(path, fcntl.O_RDONLY | fcntl.O_CLOEXEC)
  if fd then
    unistd.fsync(fd)
    unistd.close(fd)
  end
end

--- Makes a cluster: under a name of its own first, so that `data` is never half made.
-- @function create
-- @tparam string home
-- @tparam table owner `{uid, gid}`
-- @tparam table server `{bin}`
-- @tparam[opt] table settings name → value
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "disk_full" or "server"
function M.create(home, owner, server, settings)
  local new, log, from = home .. "/data.new", home .. "/log", places.log_size(home)
  exec.run(owner, nil, { "rm", "-rf", "--", new })
  local made = exec.run(owner, log, {
    server.bin .. "/initdb", "-D", new, "-U", "postgres", "--auth-local=trust", "--auth-host=reject",
    "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions",
  })
  made = made and exec.run(owner, log, {
    "sh", "-c", 'printf %s "$2" >>"$1" && sync "$1"', "sh", new .. "/postgresql.conf", settings_text(settings),
  })
  local reason
  if made then
    made, reason = os.rename(new, home .. "/data")
  end
  if made then
    sync_folder(home)
    return true
  end
  exec.run(owner, nil, { "rm", "-rf", "--", new })
  return places.blame(home, reason or "the database could not be made", from)
end

return M
