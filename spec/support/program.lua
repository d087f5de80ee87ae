--- Runs the program under test as a person would: a command line in, exit code and both outputs out.
local host = require "atelier.host"

local M = {}

local PATIENT = host.root .. "/spec/support/patient.conf.lua"

local function quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

--- A new empty folder; remove it with `remove`.
-- @treturn string path
function M.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir -m 755 " .. quote(path)))
  return path
end

function M.remove(path)
  assert(path:match("^/tmp/%w+"))
  os.execute("rm -rf " .. quote(path))
end

-- Mounting is root's; everybody else needs the right to become it, as for `make deps`.
local sudo = require("posix.unistd").geteuid() == 0 and "" or "sudo -n "

--- Mounts a small file system in memory, open to all, or changes its options.
-- @tparam string path
-- @tparam string options as of mount(8), like "size=64k"
function M.mount(path, options)
  assert(os.execute(("%smount -t tmpfs -o %s,mode=777 tmpfs %s"):format(sudo, options, quote(path))))
end

function M.unmount(path)
  assert(os.execute(("%sumount %s"):format(sudo, quote(path))))
end

--- Runs a shell command.
-- @tparam string command
-- @treturn integer exit code
-- @treturn string standard output
-- @treturn string standard error
function M.shell(command)
  local base = os.tmpname()
  local _, _, code = os.execute(("{ %s\n} >%s.out 2>%s.err </dev/null"):format(command, base, base))
  local out, err = slurp(base .. ".out"), slurp(base .. ".err")
  os.remove(base)
  os.remove(base .. ".out")
  os.remove(base .. ".err")
  return code, out, err
end

--- Runs `atelier` with the given words. Unless `env` names another, its configuration is one in which no script runs out of
-- time because the machine is slow.
-- @tparam {string,...} words
-- @tparam[opt] table env variables; nothing else of ATELIER_* or DATABASE_URL is inherited
-- @treturn integer exit code
-- @treturn string standard output
-- @treturn string standard error
function M.run(words, env)
  local parts = { "env -u DATABASE_URL -u ATELIER_LICENSE ATELIER_CONFIG=" .. quote(PATIENT) }
  for name, value in pairs(env or {}) do
    parts[#parts + 1] = name .. "=" .. quote(value)
  end
  parts[#parts + 1] = quote(host.exe)
  for _, word in ipairs(words) do
    parts[#parts + 1] = quote(word)
  end
  return M.shell(table.concat(parts, " "))
end

return M
