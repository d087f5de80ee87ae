--- A service in a world of its own: this program, copied with its scripts so that a spec may break them, over a scratch database.
--
-- @module spec.daemon.support.service
local clock = require "clock"
local dirent = require "posix.dirent"
local host = require "atelier.host"
local http = require "atelier.http"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local migrate = require "migrate"
local signal = require "posix.signal"
local time = require "posix.time"
local worlds = require "spec.workflow.support.world"

local M = {}
local Service = {}
Service.__index = Service

local PATIENCE = 120 -- seconds until something that must happen is taken not to

local function slurp(path)
  local file = io.open(path, "rb")
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end
M.slurp = slurp

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- A port that is free, and that no client of this machine gets by chance while the service is away.
function M.port()
  local server
  repeat server = httpd.listen { port = math.random(10000, 30000) } until server
  local port = server:port()
  server:close()
  return port
end

local made = {}

-- A slow machine must not change what becomes of something: no time here is meant to be met.
local function patient()
  return { listen_port = 0, worker_batch = 8, jail_children = 2, drain_time = 120, script_time = 20, api_timeout = 60 }
end

--- A service, not yet started. `close_all` closes it.
-- @tparam[opt] table options config: keys that differ from the defaults; env: variables; template: as of the world
-- @treturn table service: world, dir, root (of the copy)
function M.new(options)
  options = options or {}
  local config = patient()
  for name, value in pairs(options.config or {}) do config[name] = value end
  local world = worlds.new { config = config, template = options.template }
  local self = setmetatable({ world = world, dir = world.dir, root = world.dir .. "/tree", masters = 0 }, Service)
  made[#made + 1] = self
  assert(os.execute(("mkdir -p %s/build && cp -R lua sql %s && cp %s %s/build/atelier"):format(self.root, self.root,
    quote(host.exe), self.root)))
  assert(migrate.run { conn = world.conn, dir = self.root .. "/sql" }) -- while somebody works on these, too
  world.env.ATELIER_LOG = "info"
  for name, value in pairs(options.env or {}) do world.env[name] = value end
  return self
end

--- Sets the configuration for what is started or reloaded from now on.
function Service:configure(values)
  local config = patient()
  for name, value in pairs(values) do config[name] = value end
  self.world:configure(config)
end

--- Starts the program of the copy.
-- @treturn table process, as of the world
function Service:launch(...)
  local exe = host.exe
  host.exe = self.root .. "/build/atelier"
  local process = self.world:start(...)
  host.exe = exe
  return process
end

--- Starts it (`serve` unless told otherwise) and waits until it serves.
function Service:start(...)
  local words = { ... }
  if #words == 0 then words = { "serve" } end
  self.master = self:launch(table.unpack(words))
  self:await("it serves", function()
    assert(self:lives(), "the service ended:\n" .. self:log())
    local state = self:state()
    return state and state.pid == self.master.pid and state.generation > 0
  end)
  return self.master
end

--- Whether the master started last has not ended; does not reap it.
function Service:lives()
  local state = slurp(("/proc/%d/stat"):format(self.master.pid)):match "^.*%) (%a)"
  return state ~= nil and state ~= "Z"
end

--- What the master tells in its file; nil when there is none.
function Service:state()
  return (json.decode(slurp(self.dir .. "/run/master.json")))
end

--- All that this service has logged since its last start.
function Service:log()
  return self.master.errors()
end

--- Waits for a fact.
-- @tparam string what for the message when it never comes
-- @tparam function fact
-- @return what the fact gave
function Service:await(what, fact)
  local deadline = clock.now() + PATIENCE
  while true do
    local value = fact()
    if value then return value end
    assert(clock.now() < deadline, ("never: %s\n%s"):format(what, self.master and self:log():sub(-3000) or ""))
    time.nanosleep { tv_sec = 0, tv_nsec = 10 * 1000 * 1000 }
  end
end

--- The process of the current generation with this name, or nil.
function Service:process(name)
  local state = self:state()
  for _, p in ipairs(state and state.processes or {}) do
    if p.name == name and p.state ~= "ends" and p.pid then return p end
  end
end

--- Waits until a process is ready that is not the one with this number.
function Service:await_another(name, pid)
  return self:await("another " .. name, function()
    local p = self:process(name)
    return p and p.pid ~= pid and p.state == "ready" and p
  end)
end

--- Asks for a reload and waits for what becomes of it.
-- @treturn table state
function Service:reload()
  local before = self:state()
  signal.kill(before.pid, signal.SIGHUP)
  return self:await_reload(before)
end

--- Waits for the end of a reload that began after `before`.
function Service:await_reload(before)
  return self:await("a reload", function()
    local state = self:state()
    if state and (state.generation > before.generation or state.reload.ok ~= before.reload.ok
      or state.reload.message ~= before.reload.message) then
      return state
    end
  end)
end

--- The port that it listens on.
function Service:port()
  return tonumber(self:state().url:match ":(%d+)$")
end

--- GETs a path; the response, or nil, message.
function Service:get(path)
  return http.request { url = self:state().url .. path, timeout = 60 }
end

--- Processes of this service, whoever started them.
-- @treturn table number → title
function Service:processes()
  local found = {}
  for _, name in ipairs(dirent.dir "/proc") do
    local title = name:match "^%d+$" and slurp("/proc/" .. name .. "/cmdline"):match "^(atelier: [^%z]+)%z$"
    if title and slurp("/proc/" .. name .. "/environ"):find("ATELIER_STATE=" .. self.dir .. "\0", 1, true) then
      found[tonumber(name)] = title
    end
  end
  return found
end

--- Waits until no process of it is left.
function Service:await_silence()
  self:await("no process is left", function() return next(self:processes()) == nil end)
end

--- Writes a file of the copy's tree; gives back what was there.
function Service:write(name, text)
  local path = self.root .. "/" .. name
  local before = slurp(path)
  worlds.write(path .. ".tmp", text)
  assert(os.rename(path .. ".tmp", path))
  return before
end

--- Tells it to end, and asserts that it does, with code 0 and nobody left.
function Service:stop()
  self.master.kill(signal.SIGTERM)
  local code, number = self.master.wait()
  assert(code == 0, ("ended with %s %s\n%s"):format(code, number, self:log()))
  self:await_silence()
end

--- Removes everything, whatever its state.
function Service:close()
  for pid in pairs(self:processes()) do
    signal.kill(pid, signal.SIGCONT)
    signal.kill(pid, signal.SIGKILL)
  end
  self.world:close()
  assert(http.live_handles() == 0)
end

--- For `after_each`: closes whatever was made.
function M.close_all()
  while made[1] do
    table.remove(made):close()
  end
end

return M
