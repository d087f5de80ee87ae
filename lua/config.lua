--- The configuration: one Lua file evaluated as data, environment variables, and defaults.
-- Every key is listed here with its unit, default and meaning; a key that is not is refused, with a suggestion.
-- @module config
local host = require "atelier.host"

local M = {}

-- key, type, default, environment variable, help. A secret may also come from the file named by KEY_file. Numbers are
-- above 0, from `least` and up to `most` where those are given; `choices` lists the only values.
M.keys = {
  { "database_url", "string", nil, "DATABASE_URL", "Postgres to use; without it, a private one", secret = true },
  { "state_dir", "string", nil, "ATELIER_STATE", "folder for the private Postgres, keys and generated files" },
  { "keyring", "string", nil, "ATELIER_KEYRING", "key ring file (default: keyring.json in state_dir)" },
  { "templates_dir", "string", nil, "ATELIER_TEMPLATES", "folder of template folders NAME.at" },
  { "storage_dir", "string", nil, "ATELIER_STORAGE", "folder for generated files (default: files in state_dir)" },
  { "storage_threads", "integer", 16, nil, "files that are synced at the same time, 1 to 64", most = 64 },
  { "database_timeout", "number", 30, nil, "seconds until a statement is given up" },
  { "worker_batch", "integer", 32, nil, "most jobs that a worker claims at once" },
  { "worker_lease", "number", 60, nil, "seconds until a silent worker's jobs go to another", least = 1, most = 86400 },
  { "worker_kits", "integer", 16, nil, "most (template, plan) pairs that a worker keeps prepared" },
  { "check_bundles", "boolean", true, "ATELIER_CHECK", "run every bundle in the jail before it is packaged" },
  { "jail_memory", "integer", 32 * 1024 * 1024, nil, "bytes of memory that a run of a script may take" },
  { "jail_instructions", "integer", 10000000, nil, "instructions that a run of a script may take" },
  { "jail_time", "number", 2, nil, "seconds that a run of a script may take" },
  { "jail_output", "integer", 65536, nil, "bytes that a run of a script may print" },
  { "jail_children", "integer", 8, nil, "most children, one for each kit, that a worker keeps" },
  { "jail_fresh", "boolean", false, nil, "true: each run has a child of its own; slower" },
  { "jail_without", "string", "", nil, "walls to do without where a kernel lacks them, as in \"seccomp\": weaker" },
  { "runtimes_dir", "string", nil, nil, "folder of runtimes NAME.lua of your own" },
  { "log_level", "string", "info", "ATELIER_LOG", "debug, info, warn or error",
    choices = { "debug", "info", "warn", "error" } },
  { "log_format", "string", "text", "ATELIER_LOG_FORMAT", "text or json", choices = { "text", "json" } },
}

local by_name = {}
for _, key in ipairs(M.keys) do
  by_name[key[1]] = key
end

-- Levenshtein distance, for "did you mean".
local function distance(a, b)
  local row = {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    local previous = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      previous, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, previous + cost)
    end
  end
  return row[#b]
end

--- The name in a list that is nearest to a mistyped one.
-- @tparam string name
-- @tparam {string,...} names
-- @treturn string|nil
function M.nearest(name, names)
  local best, least = nil, 4
  for _, candidate in ipairs(names) do
    local d = distance(name, candidate)
    if d < least then
      best, least = candidate, d
    end
  end
  return best
end

local function unknown(name)
  local names = {}
  for _, key in ipairs(M.keys) do
    names[#names + 1] = key[1]
  end
  local near = M.nearest(name, names)
  return near and ("unknown key '%s'; did you mean '%s'?"):format(name, near)
    or ("unknown key '%s'; `atelier config` lists them"):format(name)
end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then
    return nil, message
  end
  local text = file:read("a")
  file:close()
  if not text then
    return nil, path .. ": is not a readable file"
  end
  return text
end

local CONFIG_INSTRUCTIONS = 1000000

-- The file is data: it sees nothing, and returns a table.
local function evaluate(path)
  local text, message = read_file(path)
  if not text then
    return nil, "config: " .. message, "config"
  end
  local chunk, problem = load(text, "@" .. path, "t", {})
  if not chunk then
    return nil, "config: " .. problem, "config"
  end
  -- Data needs no loops; one without an end would hang every command.
  debug.sethook(function()
    error(path .. ": runs on and on; it must only return a table", 0)
  end, "", CONFIG_INSTRUCTIONS)
  local ok, values = pcall(chunk)
  debug.sethook()
  if not ok then
    return nil, "config: " .. tostring(values), "config"
  end
  if type(values) ~= "table" then
    return nil, ("config: %s: must return a table, as in `return { worker_batch = 32 }`"):format(path), "config"
  end
  return values
end

local function article(kind)
  return kind:find "^[aeiou]" and "an " .. kind or "a " .. kind
end

-- What is wrong with a number or a word of the right type.
local function fault(key, value)
  if type(value) == "number" then
    if value ~= value or value <= 0 then
      return "must be above 0"
    elseif value < (key.least or 0) or value > (key.most or math.maxinteger) then
      return ("must be %g to %g"):format(key.least or 1, key.most or math.maxinteger)
    end
  elseif key.choices then
    for _, choice in ipairs(key.choices) do
      if value == choice then
        return nil
      end
    end
    return ("must be one of %s, not %q"):format(table.concat(key.choices, ", "), value)
  elseif type(value) == "string" and value:find("\0", 1, true) then
    return "has a NUL byte in it"
  end
end

local function check(key, value, origin)
  local name, kind = key[1], key[2]
  local fits = type(value) == kind or (kind == "number" and type(value) == "number")
    or (kind == "integer" and math.type(value) == "integer")
  if not fits then
    local found = key.secret and article(type(value)) or ("%q"):format(tostring(value))
    return nil, ("config: %s: %s must be %s, not %s"):format(origin, name, article(kind), found), "config"
  end
  local problem = fault(key, value)
  if problem then
    return nil, ("config: %s: %s %s"):format(origin, name, problem), "config"
  end
  return true
end

-- How the environment says yes and no.
local from_text = { ["1"] = true, ["true"] = true, yes = true, ["0"] = false, ["false"] = false, no = false }

-- Moves the values of a config file into `values`, reading secrets from the files that NAME_file gives.
local function take(values, given, path)
  for name, value in pairs(given) do
    local key = by_name[name]
    local secret = not key and type(name) == "string" and by_name[name:match("^(.*)_file$")]
    if secret and secret.secret and type(value) == "string" then
      local text, message = read_file(value)
      if not text then
        return nil, ("config: %s: %s: %s"):format(path, name, message), "config"
      end
      values[secret[1]] = text:match("^(.-)%s*$")
    elseif not key then
      return nil, ("config: %s: %s"):format(path, unknown(tostring(name))), "config"
    else
      local ok, message, code = check(key, value, path)
      if not ok then
        return nil, message, code
      end
      values[name] = value
    end
  end
  return true
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
  end
  return file ~= nil
end

-- A checkout keeps its state in its own var/; an installed program in the user's, or the system's, state folder.
local function default_state_dir()
  if exists(host.root .. "/Makefile") then
    return host.root .. "/var"
  end
  if os.getenv("HOME") and os.getenv("USER") ~= "root" and os.getenv("HOME") ~= "/root" then
    return (os.getenv("XDG_STATE_HOME") or os.getenv("HOME") .. "/.local/state") .. "/atelier"
  end
  return "/var/lib/atelier"
end

local function fill_defaults(values)
  for _, key in ipairs(M.keys) do
    if values[key[1]] == nil then
      values[key[1]] = key[3]
    end
  end
  values.state_dir = values.state_dir or default_state_dir()
  values.keyring = values.keyring or values.state_dir .. "/keyring.json"
  values.storage_dir = values.storage_dir or values.state_dir .. "/files"
  values.templates_dir = values.templates_dir or host.root .. "/templates"
end

--- Reads the configuration: the environment wins over the file, the file over the defaults.
-- The file is `path`, else $ATELIER_CONFIG, else atelier.conf.lua in the working folder when there is one.
-- @tparam[opt] string path
-- @treturn[1] table values by key, and `path` of the file used
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "config"
function M.load(path)
  path = path or os.getenv("ATELIER_CONFIG") or (exists("atelier.conf.lua") and "atelier.conf.lua" or nil)
  local values = {}
  if path then
    local given, message, code = evaluate(path)
    if not given then
      return nil, message, code
    end
    local ok
    ok, message, code = take(values, given, path)
    if not ok then
      return nil, message, code
    end
  end
  for _, key in ipairs(M.keys) do
    local set = key[4] and os.getenv(key[4])
    if set and set ~= "" then
      if key[2] == "boolean" then
        set = from_text[set] == nil and set or from_text[set]
      end
      local ok, message, code = check(key, set, "$" .. key[4])
      if not ok then
        return nil, message, code
      end
      values[key[1]] = set
    end
  end
  fill_defaults(values)
  values.path = path
  return values
end

return M
