--- Runtimes: what an application offers its scripts, as data, and the text that stands for it in the jail.
--
-- A runtime is one Lua file that returns a table:
--
--   description  one line
--   constants    global values: strings, numbers, booleans, tables of those
--   functions    global functions by name: a list of what each call returns, or the text of a Lua function
--   folder       where the application keeps scripts; `dofile` finds siblings below it
--
-- Functions are recorded: their calls are counted. All other globals are unknown; reading one is an error.
-- @module runtime
local host = require "atelier.host"

local M = {}

local KEYS = { description = "string", constants = "table", functions = "table", folder = "string" }
local MOST_RESULTS <const> = 16

local RESERVED = {}
for word in ("and break do else elseif end false for function goto if in local nil not or repeat return then true "
  .. "until while"):gmatch "%a+" do
  RESERVED[word] = true
end

-- What the file says is wrong with it, in the order in which a person would mend it.
local Faults = {}
Faults.__index = Faults

function Faults:add(format, ...)
  self[#self + 1] = ("runtime: %s: "):format(self.path) .. format:format(...)
end

local function sorted_names(map)
  local names = {}
  for name in pairs(map) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b)
    return tostring(a) < tostring(b)
  end)
  return names
end

local function is_name(name)
  return type(name) == "string" and #name <= 100 and name:find "^[%a_][%w_]*$" ~= nil and not RESERVED[name]
end

-- A value as Lua text; nil and a reason when it has none.
local function literal(value, depth)
  local kind = type(value)
  if kind == "string" then
    return ("%q"):format(value)
  elseif kind == "boolean" or value == nil then
    return tostring(value)
  elseif kind == "number" and value == value and value ~= math.huge and value ~= -math.huge then
    return ("%q"):format(value)
  elseif kind ~= "table" then
    return nil, ("a %s has no text"):format(kind == "number" and tostring(value) or kind)
  elseif depth > 20 then
    return nil, "nested too deep"
  end
  local parts = {}
  for _, key in ipairs(sorted_names(value)) do
    local k, why = literal(key, depth + 1)
    local v = k
    if k then
      v, why = literal(value[key], depth + 1)
    end
    if not v then
      return nil, why
    end
    parts[#parts + 1] = ("[%s] = %s"):format(k, v)
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

-- `define("name", result…)` of a function that always answers the same.
local function constant_function(faults, name, results)
  local parts = { ("%q"):format(name) }
  for i = 1, math.max(#results, results.n or 0) do
    local text, why = literal(results[i], 0)
    if not text then
      faults:add("functions.%s: result %d: %s", name, i, why)
      return nil
    end
    parts[#parts + 1] = text
  end
  if #parts > MOST_RESULTS + 1 then
    faults:add("functions.%s: more than %d results", name, MOST_RESULTS)
  end
  return "define(" .. table.concat(parts, ", ") .. ")"
end

local function computed_function(faults, name, text)
  local chunk, message = load("return " .. text, "=functions." .. name, "t", {})
  local ok, f = pcall(chunk or error)
  if not chunk or not ok or type(f) ~= "function" then
    faults:add("%s", message or ("functions.%s: its text is no function"):format(name))
    return nil
  end
  return ("define(%q, %s)"):format(name, text)
end

local function add_constants(faults, lines, constants)
  for _, name in ipairs(sorted_names(constants)) do
    local text, why = literal(constants[name], 0)
    if not is_name(name) then
      faults:add("constants: %q is no name", tostring(name))
    elseif not text then
      faults:add("constants.%s: %s", name, why)
    else
      lines[#lines + 1] = ("%s = %s"):format(name, text)
    end
  end
end

local function add_functions(faults, lines, functions)
  for _, name in ipairs(sorted_names(functions)) do
    local what = functions[name]
    if not is_name(name) then
      faults:add("functions: %q is no name", tostring(name))
    elseif type(what) == "table" then
      lines[#lines + 1] = constant_function(faults, name, what)
    elseif type(what) == "string" then
      lines[#lines + 1] = computed_function(faults, name, what)
    else
      faults:add("functions.%s: is a %s; a list of results or the text of a function is wanted", name, type(what))
    end
  end
end

-- The text that prepares each state. Constants come first: functions may use them.
local function prelude_of(faults, data)
  local lines = { "local app = ...", "local define = app.define" }
  add_constants(faults, lines, data.constants or {})
  add_functions(faults, lines, data.functions or {})
  if data.folder then
    lines[#lines + 1] = ("app.folder(%q)"):format(data.folder)
  end
  lines[#lines + 1] = "app.strict()"
  return table.concat(lines, "\n") .. "\n"
end

local function check_keys(faults, data)
  for _, key in ipairs(sorted_names(data)) do
    if not KEYS[key] then
      faults:add("unknown key '%s'", tostring(key))
    elseif type(data[key]) ~= KEYS[key] then
      faults:add("%s must be a %s, not a %s", key, KEYS[key], type(data[key]))
    end
  end
end

-- The file is data: it sees nothing, and returns a table.
local function evaluate(path)
  local file, message = io.open(path, "rb")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  if not text then
    return nil, "runtime: " .. (message or path .. ": is not a readable file")
  end
  local chunk
  chunk, message = load(text, "@" .. path, "t", {})
  local ok, data = pcall(chunk or error)
  if not chunk or not ok then
    return nil, "runtime: " .. tostring(message or data)
  elseif type(data) ~= "table" then
    return nil, ("runtime: %s: must return a table"):format(path)
  end
  return data
end

local function find(name, folder)
  for _, place in ipairs { folder or host.root .. "/lua/runtime", host.root .. "/lua/runtime" } do
    local path = ("%s/%s.lua"):format(place, name)
    local file = io.open(path, "rb")
    if file then
      file:close()
      return path
    end
  end
end

--- Reads a runtime file's table.
-- @tparam table data
-- @tparam string path for messages
-- @tparam[opt] table results lists of what functions return instead, by name: `{dialog = {2}}`
-- @treturn[1] string the text that stands for it
-- @return[2] nil
-- @treturn[2] string message: every fault, one a line
-- @treturn[2] string "runtime"
function M.compile(data, path, results)
  local faults = setmetatable({ path = path }, Faults)
  check_keys(faults, data)
  if #faults > 0 then
    return nil, table.concat(faults, "\n"), "runtime"
  end
  local functions = {}
  for name, what in pairs(data.functions or {}) do
    functions[name] = what
  end
  for name, list in pairs(results or {}) do
    if functions[name] == nil then
      faults:add("there is no function '%s' whose results could be set", tostring(name))
    end
    functions[name] = list
  end
  local text = prelude_of(faults, { constants = data.constants, functions = functions, folder = data.folder })
  if #faults > 0 then
    return nil, table.concat(faults, "\n"), "runtime"
  end
  return text
end

--- Finds a runtime and makes its text.
-- @tparam string name
-- @tparam[opt] table options `folder`: where an operator's own are, before the program's; `results`: see `compile`
-- @treturn[1] table `{name, prelude}` for `atelier.jail`'s child:load
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "runtime"
function M.load(name, options)
  options = options or {}
  local path = name:find "^[%a_][%w_-]*$" and name ~= "init" and find(name, options.folder)
  if not path then
    return nil, ("runtime: there is no runtime '%s'"):format(name), "runtime"
  end
  local data, message = evaluate(path)
  if not data then
    return nil, message, "runtime"
  end
  local text, problem, code = M.compile(data, path, options.results)
  if not text then
    return nil, problem, code
  end
  return { name = name .. " runtime", prelude = text }
end

return M
