--- The configuration: one Lua file evaluated as data, environment variables, and defaults.
-- Every key is listed here with its unit, default and meaning; a key that is not is refused, with a suggestion.
-- @module config
local host = require "atelier.host"

local M = {}

--- Every key, see `config.keys`.
M.keys = require "config.keys"

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
    if value ~= value or value <= 0 and not key.least then
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

local function is_list(value)
  local count = 0
  for i, word in pairs(type(value) == "table" and value or {}) do
    count = count + 1
    if math.type(i) ~= "integer" or type(word) ~= "string" then
      return false
    end
  end
  return type(value) == "table" and count == #value
end

local function check(key, value, origin)
  local name, kind = key[1], key[2]
  local fits = type(value) == kind or (kind == "integer" and math.type(value) == "integer")
    or (kind == "list" and is_list(value))
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

local TRUTH = { ["1"] = true, ["true"] = true, yes = true, ["0"] = false, ["false"] = false, no = false }

-- The environment has words alone. One that cannot be what the key wants stays a word, which the check then refuses.
local function from_text(key, text)
  if key[2] == "boolean" and TRUTH[text] ~= nil then
    return TRUTH[text]
  elseif key[2] == "integer" or key[2] == "number" then
    return tonumber(text) or text
  end
  return text
end

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
      values.secret_files[secret[1]] = value
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
-- @treturn[1] table values by key, `path` of the file used, and `secret_files`: paths by key, for who reads them anew
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "config"
function M.load(path)
  path = path or os.getenv("ATELIER_CONFIG") or (exists("atelier.conf.lua") and "atelier.conf.lua" or nil)
  local values = { secret_files = {} }
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
      set = from_text(key, set)
      local ok, message, code = check(key, set, "$" .. key[4])
      if not ok then
        return nil, message, code
      end
      values[key[1]], values.secret_files[key[1]] = set, nil
    end
  end
  fill_defaults(values)
  values.path = path
  return values
end

return M
