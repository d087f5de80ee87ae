--- The manifest of a template, `template.json`: reads it and says precisely what is wrong with it.
-- Knows the manifest alone, not the files that it names.
-- @module template.manifest

local json = require "atelier.json"
local names_of_files = require "template.names"

local M = {}

local TYPES = { lua = true, json = true, text = true, binary = true }
local CONTAINERS = { ate1 = true, ["winzip-aes256"] = true }
local MAX_FILES = 10000

-- All complaints are collected: an author mends a manifest once.
local function complain(faults, where, message)
  faults[#faults + 1] = where == "" and message or where .. ": " .. message
end

local function type_name(value)
  if value == json.null then return "null" end
  if type(value) == "table" then return json.is_array(value) and "a list" or "an object" end
  return math.type(value) == "integer" and "an integer" or "a " .. (math.type(value) or type(value))
end

local function unknown_keys(faults, where, object, known)
  local names = {}
  for key in next, object do
    if not known[key] then names[#names + 1] = key end
  end
  table.sort(names)
  for _, key in ipairs(names) do
    local list = {}
    for name in next, known do list[#list + 1] = name end
    table.sort(list)
    complain(faults, where, ("unknown key %q (known: %s)"):format(key, table.concat(list, ", ")))
  end
end

-- A string under a key, or nil after a complaint (an optional one may be absent).
local function string_of(faults, where, object, key, required)
  local value = object[key]
  if value == nil then
    if required then complain(faults, where, key .. " is missing") end
    return nil
  end
  if type(value) == "string" then return value end
  complain(faults, where, ("%s: a string expected, got %s"):format(key, type_name(value)))
  return nil
end

--- Is this a name that a bundle may hold? See `template.names`.
M.check_name = names_of_files.check

local function check_type(faults, where, entry)
  local kind = string_of(faults, where, entry, "type", true)
  if not kind then return end
  if not TYPES[kind] then
    return complain(faults, where, ("type: %q is none of lua, json, text, binary"):format(kind))
  end
  -- Declared as something else, a script's placeholders would be filled with no regard to where they stand.
  local extension = type(entry.file) == "string" and entry.file:lower():match("%.(%w+)$")
  if (extension == "lua" or extension == "json") and kind ~= extension then
    complain(faults, where, ("type: a .%s file has the type %q, not %q"):format(extension, extension, kind))
  end
end

local ENTRY = { file = true, type = true, required = true, tool = true }

local function check_entry(faults, where, entry)
  if type(entry) ~= "table" or json.is_array(entry) then
    return complain(faults, where, "an object expected, got " .. type_name(entry))
  end
  unknown_keys(faults, where, entry, ENTRY)
  local file = string_of(faults, where, entry, "file", true)
  if file then
    where = ("%s (%s)"):format(where, file)
    local ok, reason = M.check_name(file)
    if not ok then complain(faults, where, "file: " .. reason) end
    if file == "template.json" then complain(faults, where, "file: the manifest is not part of a bundle") end
  end
  check_type(faults, where, entry)
  if entry.required ~= nil and type(entry.required) ~= "boolean" then
    complain(faults, where, "required: true or false expected, got " .. type_name(entry.required))
  end
  local tool = string_of(faults, where, entry, "tool", false)
  if tool and not tool:find("^[%w_-]+$") then
    complain(faults, where, ("tool: %q is no name of a tool"):format(tool))
  end
end

local function check_collisions(faults, list)
  local names = { n = #list }
  for i, entry in ipairs(list) do
    names[i] = type(entry) == "table" and type(entry.file) == "string" and entry.file or nil
  end
  names_of_files.collisions(names, function(reason, i)
    complain(faults, i and ("file_structure[%d]"):format(i) or "file_structure", reason)
  end)
end

local function check_list(faults, object, key, required)
  local list = object[key]
  if list == nil and not required then return {} end
  if list == nil then
    complain(faults, "", key .. " is missing")
    return {}
  end
  if type(list) ~= "table" or not json.is_array(list) then
    complain(faults, "", ("%s: a list expected, got %s"):format(key, type_name(list)))
    return {}
  end
  return list
end

local function check_variables(faults, list)
  local seen = {}
  for i, name in ipairs(list) do
    local where = ("required_variables[%d]"):format(i)
    if type(name) ~= "string" then
      complain(faults, where, "a string expected, got " .. type_name(name))
    elseif not name:find("^[%a_][%w_]*$") then
      complain(faults, where, ("%q is no name of a variable"):format(name))
    elseif seen[name] then
      complain(faults, where, name .. " is listed twice")
    else
      seen[name] = true
    end
  end
end

local TOP = { name = true, version = true, description = true, runtime = true, container = true, file_structure = true,
  required_variables = true }

local function check_top(faults, object)
  unknown_keys(faults, "", object, TOP)
  local name = string_of(faults, "", object, "name", true)
  if name and not (name:find("^[a-z0-9_-]+$") and #name <= 64) then
    complain(faults, "name", ("%q: 1 to 64 of a-z, 0-9, _ and - expected"):format(name))
  end
  local version = string_of(faults, "", object, "version", true)
  if version and not (version:find("^%w[%w.+-]*$") and #version <= 20) then
    complain(faults, "version", ("%q: 1 to 20 letters, digits, and . + - expected, like 1.0.0"):format(version))
  end
  string_of(faults, "", object, "description", false)
  local runtime = string_of(faults, "", object, "runtime", false)
  if runtime and not runtime:find("^[%a_][%w_-]*$") then
    complain(faults, "runtime", ("%q is no name of a runtime"):format(runtime))
  end
  local container = string_of(faults, "", object, "container", false)
  if container and not CONTAINERS[container] then
    complain(faults, "container", ("%q is neither \"ate1\" nor \"winzip-aes256\""):format(container))
  end
end

--- Reads a manifest.
-- @tparam string text JSON
-- @treturn[1] table `{name, version, description, runtime, container, file_structure, required_variables}`, with
--   `container` "ate1" and an empty `required_variables` when absent
-- @return[2] nil
-- @treturn[2] string all complaints, one a line
-- @treturn[2] string "template"
function M.read(text)
  local object, message = json.decode(text)
  if object == nil then return nil, "template.json: " .. message:gsub("^decode: ", ""), "template" end
  if type(object) ~= "table" or json.is_array(object) then
    return nil, "template.json: an object expected, got " .. type_name(object), "template"
  end
  local faults = {}
  check_top(faults, object)
  local files = check_list(faults, object, "file_structure", true)
  if #files == 0 and #faults == 0 then complain(faults, "file_structure", "no file is listed") end
  if #files > MAX_FILES then
    return nil, ("template.json: file_structure: more than %d files"):format(MAX_FILES), "template"
  end
  for i, entry in ipairs(files) do check_entry(faults, ("file_structure[%d]"):format(i), entry) end
  check_collisions(faults, files)
  check_variables(faults, check_list(faults, object, "required_variables", false))
  if faults[1] then return nil, "template.json: " .. table.concat(faults, "\ntemplate.json: "), "template" end
  object.container = object.container or "ate1"
  object.required_variables = object.required_variables or json.array {}
  return object
end

return M
