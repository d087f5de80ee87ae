--- Values that stand in for a real device's when a template is tried out: what a worker would give, made up.
-- Knows the names and types of the variables (DESIGN: device_hash, plan, plan_tools, …); renders nothing.
-- @module template.sample

local json = require "atelier.json"

local M = {}

--- Names that a worker has values for; fields of `params` come from a job's parameters.
M.NAMES = {
  device_hash = true, plan = true, plan_tools = true, license_key = true, expires_at = true, issued_at = true,
  template = true, version = true, artifact_id = true, params = true,
}

-- Sets a field deep in a table, making the tables on the way.
local function set_field(object, path, value)
  for i = 1, #path - 1 do
    if type(object[path[i]]) ~= "table" then object[path[i]] = {} end
    object = object[path[i]]
  end
  if object[path[#path]] == nil then object[path[#path]] = value end
end

local function split(name)
  local path = {}
  for part in name:gmatch("[^.]+") do path[#path + 1] = part end
  return path
end

--- Placeholders of a template that are fields of `params`.
-- @tparam table template with compiled files
-- @treturn table sorted list of paths, each a list of keys
function M.params(template)
  local seen, list = {}, {}
  for _, compiled in next, template.compiled do
    for _, name in ipairs(compiled.names) do
      if name:find("^params%.") and not seen[name] then
        seen[name], list[#list + 1] = true, name
      end
    end
  end
  table.sort(list)
  for i, name in ipairs(list) do list[i] = split(name) end
  return list
end

--- The variables of a made-up device.
-- @tparam table template as `template.load` gives it, its files compiled
-- @tparam table plan `{name, tools}`
-- @tparam[opt] table given values that count instead
-- @treturn table
function M.vars(template, plan, given)
  local tools = table.move(plan.tools, 1, #plan.tools, 1, {})
  local vars = {
    device_hash = "SAMPLE-001", plan = plan.name, plan_tools = json.array(tools),
    license_key = "0A1B2-C3D4E-5F6G7-H8J9K-MNPQR", expires_at = "2999-12-31T23:59:59Z",
    issued_at = "2024-01-02T03:04:05Z", template = template.name, version = template.version,
    artifact_id = "0f8fad5b-d9cb-469f-a165-70867728950e", params = {},
  }
  for name, value in next, given or {} do vars[name] = value end
  if type(vars.params) ~= "table" or vars.params == json.null then return vars end
  local params = {}
  for name, value in next, vars.params do params[name] = value end
  vars.params = params
  for _, path in ipairs(M.params(template)) do set_field(vars, path, "sample") end
  return vars
end

--- The same variables with one value in the place of every text: what a hostile name would be, everywhere at once.
-- @tparam table vars of `vars`
-- @tparam string value
-- @tparam[opt] table keep names that stay as they are
-- @treturn table
function M.with_text(vars, value, keep)
  local function swap(t)
    local copy = json.is_array(t) and json.array {} or {}
    for key, item in next, t do
      copy[key] = type(item) == "string" and value or type(item) == "table" and item ~= json.null and swap(item) or item
    end
    return copy
  end
  local swapped = swap(vars)
  for _, name in ipairs(keep or {}) do swapped[name] = vars[name] end
  return swapped
end

--- The same variables with another value in one field.
-- @tparam table vars of `vars`
-- @tparam table path list of keys
-- @param value
-- @treturn table
function M.with_field(vars, path, value)
  local copy = {}
  for key, item in next, vars do copy[key] = item end
  local object = copy
  for i = 1, #path - 1 do
    local inner = {}
    for key, item in next, type(object[path[i]]) == "table" and object[path[i]] or {} do inner[key] = item end
    object[path[i]] = inner
    object = inner
  end
  object[path[#path]] = value
  return copy
end

return M
