--- The configuration: one Lua file evaluated as data, environment variables, and defaults.
-- Every key is listed here with its unit, default and meaning; a key that is not is refused, with a suggestion.
-- @module config
local check = require "config.check"
local evaluate = require "config.evaluate"
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

local function report(problems, format, ...)
  problems[#problems + 1] = "config: " .. format:format(...)
end

-- Takes one value, unless something is wrong with it.
local function set(values, problems, key, value, origin)
  local fault = check.fault(key, value)
  if fault then
    return report(problems, "%s %s", origin, fault)
  end
  values[key[1]] = value
  return true
end

local function take_secret(values, problems, key, name, file, path)
  local text, message = evaluate.read_file(file)
  if not text then
    return report(problems, "%s: %s: %s", path, name, message == "" and "is empty" or message)
  end
  if set(values, problems, key, text:match "^(.-)%s*$", ("%s: %s: %s"):format(path, name, file)) then
    values.secret_files[key[1]] = file
  end
end

-- Moves the values of a config file into `values`, reading secrets from the files that NAME_file gives.
local function take(values, problems, given, path)
  local names = {}
  for name in pairs(given) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local key, value = by_name[name], given[name]
    local secret = not key and type(name) == "string" and by_name[name:match("^(.*)_file$")]
    if secret and secret.secret and type(value) == "string" and value ~= "" then
      take_secret(values, problems, secret, name, value, path)
    elseif secret and secret.secret then
      report(problems, "%s: %s must be the path of a file, as in \"/etc/atelier/%s\"", path, name, secret[1])
    elseif not key then
      report(problems, "%s: %s", path, unknown(tostring(name)))
    else
      set(values, problems, key, value, path .. ": " .. name)
    end
  end
end

-- A secret's variable may say NAME_FILE instead, as containers have it.
local function take_environment(values, problems)
  for _, key in ipairs(M.keys) do
    local text = key[4] and os.getenv(key[4])
    local file = key[4] and key.secret and os.getenv(key[4] .. "_FILE")
    if file and file ~= "" and (text or "") == "" then
      take_secret(values, problems, key, key[4] .. "_FILE", file, "environment")
    elseif text and text ~= ""
      and set(values, problems, key, from_text(key, text), ("$%s: %s"):format(key[4], key[1])) then
      values.secret_files[key[1]] = nil
    end
  end
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

-- Keys are never fetched where somebody on the way could put others in their place; a project of one's own, in the
-- next container, does with its secret.
local function check_together(values, problems)
  if values.supabase_url and not values.jwks_url and not values.jwt_secret and not check.is_private(values.supabase_url)
  then
    report(problems, "supabase_url is http on another machine, where no token keys can be fetched: make it https, or "
      .. "set jwt_secret, or jwks_url as in \"https://id.example.com/jwks.json\"")
  end
end

--- Reads as much of the configuration as is sound: for what can do without the rest, and says so.
-- The file is `path`, else $ATELIER_CONFIG, else atelier.conf.lua in the working folder when there is one.
-- @tparam[opt] string path
-- @treturn table values as of `config.load`
-- @treturn {string,...} what is wrong with the rest
function M.look(path)
  path = path or os.getenv("ATELIER_CONFIG") or (exists("atelier.conf.lua") and "atelier.conf.lua" or nil)
  local values, problems = { secret_files = {} }, {}
  if path then
    local given, message = evaluate.evaluate(path)
    if given then
      take(values, problems, given, path)
    else
      report(problems, "%s", message)
    end
  end
  take_environment(values, problems)
  check_together(values, problems)
  fill_defaults(values)
  values.path = path
  return values, problems
end

--- Reads the configuration: the environment wins over the file, the file over the defaults.
-- @tparam[opt] string path as of `config.look`
-- @treturn[1] table values by key, `path` of the file used, and `secret_files`: paths by key, for who reads them anew
-- @return[2] nil
-- @treturn[2] string message: the first thing that is wrong
-- @treturn[2] string code "config"
function M.load(path)
  local values, problems = M.look(path)
  if problems[1] then
    return nil, problems[1], "config"
  end
  return values
end

return M
