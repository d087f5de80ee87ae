--- The process "check": looks at everything that a new generation of processes would run with, before any is started.
--
-- Compiles every script, loads those that the processes load, reads the configuration and every template, asks the
-- database. What it finds wrong it says with file and line; what the master needs of the configuration it hands over.
-- The master reads no file that an operator edits: a broken one can only end this process.
-- @module daemon.check
local database = require "daemon.database"
local dirent = require "posix.dirent"
local host = require "atelier.host"
local json = require "atelier.json"
local log = require "log"
local need = require("daemon.process").need
local resource = require "posix.sys.resource"
local stat = require "posix.sys.stat"

local M = {}

-- Modules whose code runs in the service. Commands and specs' helpers are compiled only.
local LOADED = { "plans", "api", "dashboard", "workflow", "storage", "ate", "runtime" }

local LOAD_SECONDS = 3 -- of the processor, that a module may take to load

-- Every file below a folder, names relative to it, in order.
local function walk(root, below, found)
  local names = stat.stat(root .. below) and dirent.dir(root .. below) or {}
  table.sort(names)
  for _, name in ipairs(names) do
    local path = below .. "/" .. name
    local info = name:sub(1, 1) ~= "." and stat.stat(root .. path)
    if info and stat.S_ISDIR(info.st_mode) ~= 0 then
      found.folders[#found.folders + 1] = root .. path
      walk(root, path, found)
    elseif info and stat.S_ISREG(info.st_mode) ~= 0 then
      found.files[#found.files + 1] = path:sub(2)
    end
  end
  return found
end

--- All files and folders below a folder; those whose names begin with a dot are left out.
-- @tparam string root
-- @treturn table files (relative names) and folders (paths, the root too)
function M.survey(root)
  return walk(root, "", { files = {}, folders = stat.stat(root) and { root } or {} })
end

-- Lets this process have so many seconds more of the processor; or as many as it likes.
local function allow(seconds)
  local limit = resource.getrlimit(resource.RLIMIT_CPU)
  limit.rlim_cur = seconds and math.ceil(os.clock() + seconds) or limit.rlim_max
  resource.setrlimit(resource.RLIMIT_CPU, limit)
end

-- Runs a module's code. One that never ends would keep every later reload waiting, and name no line. Where it catches
-- the error, or a coroutine hides it from the hook, the kernel ends this process; the master knows at which module.
local function run(process, module)
  local limit = os.clock() + LOAD_SECONDS
  process.control:send("at module " .. module)
  allow(2 * LOAD_SECONDS)
  debug.sethook(function()
    if os.clock() > limit then
      error(("still at it after %d s of processor time"):format(LOAD_SECONDS), 2)
    end
  end, "", 1000000)
  local ok, result = pcall(require, module)
  debug.sethook()
  allow()
  if not ok then
    return nil, (tostring(result):gsub("^error loading module '[^\n]*:\n%s*", ""))
  elseif type(result) ~= "table" and type(result) ~= "function" then
    return nil, ("module %s: gives a %s, not a table"):format(module, type(result))
  end
  return true
end

-- Named as a person names it: an absolute path would be cut in messages.
local function compile(root, name)
  local file, message = io.open(root .. "/" .. name, "rb")
  if not file then
    return nil, message
  end
  local text = file:read "a"
  file:close()
  return load(text, "@lua/" .. name, "t")
end

local function is_loaded(name)
  for _, part in ipairs(LOADED) do
    if name == part .. ".lua" or name:sub(1, #part + 1) == part .. "/" then
      return true
    end
  end
end

local function scripts(process)
  local root = host.root .. "/lua"
  local found = M.survey(root)
  local loaded = {}
  for _, name in ipairs(found.files) do
    if name:match "%.lua$" then
      local chunk, message = compile(root, name)
      if not chunk then
        return nil, message
      end
      loaded[#loaded + 1] = is_loaded(name) and name:gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".") or nil
    end
  end
  for _, module in ipairs(loaded) do
    local ok, message = run(process, module)
    if not ok then
      return nil, message
    end
  end
  return true
end

-- A folder that somebody names is there; the default one may be missing, where templates are in the store.
local function templates(config)
  local template = require "template"
  if config.templates_dir ~= host.root .. "/templates" and not stat.stat(config.templates_dir) then
    return nil, ("templates_dir: %s: no such folder"):format(config.templates_dir)
  end
  local found = M.survey(config.templates_dir)
  for _, name in ipairs(found.files) do
    local folder = name:match "^([^/]+%.at)/template%.json$"
    if folder then
      local t, message = template.load(config.templates_dir .. "/" .. folder)
      if t then
        t, message = t:compile_all()
      end
      if not t then
        return nil, folder .. ": " .. message
      end
    end
  end
  return true
end

-- A database that is away stops no first start: the processes wait for it, unless what is configured could never reach
-- one; `true` then. A new generation, however, must be able to do what the old one does.
local FOR_GOOD = { schema = true, no_database = true, conninfo = true }

local function schema(process, config)
  local conn, message, code = database.connect(config, process.name)
  if not conn and (FOR_GOOD[code] or process.generation > 1) then
    return nil, message
  end
  return conn or true
end

-- What compiles and loads may still fail with the first job.
local function bundles(process, config, conn)
  process.control:send "at a dry run of the templates"
  local ring, message = require("ate.keyring").ensure(config.keyring)
  if not ring then
    return nil, message
  end
  return require("workflow.dry_run").run { conn = conn, config = config, ring = ring }
end

-- Processors that this process may run on.
local function processors()
  local file <close> = io.open "/proc/self/status"
  local list = file and file:read("a"):match "Cpus_allowed_list:%s*(%S+)" or "0"
  local count = 0
  for first, last in list:gmatch "(%d+)%-?(%d*)" do
    count = count + (tonumber(last) or first) - first + 1
  end
  return math.tointeger(count)
end

-- Tells the master; what it cannot take in one piece is refused.
local function tell(process, what, value)
  local text = what .. " " .. assert(json.encode(value))
  local ok, message = process.control:send(text)
  return ok, not ok and ("%s: the %s of %d bytes"):format(message, what, #text) or nil
end

-- Where a change means another look, whatever comes of this one: who repairs what is broken does it there.
local function folders(config)
  local all = json.array {}
  for _, root in ipairs { host.root .. "/lua", config.templates_dir, config.runtimes_dir } do
    local found = M.survey(root).folders
    table.move(found, 1, #found, #all + 1, all)
  end
  return all
end

-- What the master needs to know.
local function plan(config)
  return {
    listen_host = config.listen_host, listen_port = config.listen_port,
    fronts = config.fronts, workers = config.workers or math.max(1, processors() // 2),
    drain_time = config.drain_time, log_level = config.log_level, log_format = config.log_format,
  }
end

--- Checks, and tells the master what came of it.
-- @tparam table process see `daemon.process`
-- @treturn integer exit code
function M.main(process)
  local config = process:load_config()
  if os.getenv "ATELIER_WATCH" then
    need(tell(process, "folders", folders(config)))
  end
  need(scripts(process))
  process.control:send "at the templates"
  need(templates(config))
  local doubt = require("storage").doubt(config)
  if doubt then
    log.warn("storage", { reason = doubt })
  end
  process.control:send "at the database"
  local conn = need(schema(process, config))
  if conn ~= true then
    need(bundles(process, config, conn))
    conn:close()
  end
  need(tell(process, "plan", plan(config)))
  return 0
end

return M
