--- Fields of requests: one table says what is valid to the check, to the router and to the OpenAPI document.
--
-- A field is a table: `type` ("string", "integer", "number", "boolean", "array", "object") · `required` · `default` ·
-- `description` · `example` · `enum` · strings: `min`, `max` (characters), `pattern` (for the document, with `match`,
-- the same as a Lua pattern; or a list of them, one of which fits), `says` (what must be, in words) · numbers: `min`,
-- `max` · objects: `properties` · arrays: `items` · `nullable`, for answers only. Knows no route.
-- @module api.schema
local json = require "atelier.json"

local M = {}

local HEX = "[0-9a-fA-F]"
local UUID_MATCH = ("^h8-h4-h4-h4-h12$"):gsub("%-", "%%-"):gsub("h(%d+)", function(n)
  return HEX:rep(tonumber(n))
end)

-- Copies a field and changes it, so that one form serves in many places.
local function like(base)
  return function(changes)
    local field = {}
    for name, value in pairs(base) do
      field[name] = value
    end
    for name, value in pairs(changes or {}) do
      field[name] = value
    end
    return field
  end
end

--- A UUID. Each of these makes a field: `schema.uuid { required = true }`.
M.uuid = like { type = "string", pattern = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", match = UUID_MATCH,
  format = "uuid", max = 36, says = "a UUID", example = "3f0c2b6e-7c1d-4e0a-9a59-0f6f3a1f2b11" }

--- A device's hash.
M.device_hash = like { type = "string", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$", match = "^[%w_-][%w._-]*$",
  max = 128, says = "1 to 128 characters of A-Z a-z 0-9 . _ -, the first of them no dot", example = "DEMO-PRO-001",
  description = "The device's hash." }

--- A template's name.
M.template = like { type = "string", pattern = "^[a-z0-9_-]{1,64}$", match = "^[a-z0-9_-]+$", max = 64,
  says = "1 to 64 characters of a-z 0-9 _ -", example = "smartgram", description = "The template's name." }

--- How many items of a list are wanted.
M.limit = like { type = "integer", min = 1, max = 200, default = 50, description = "How many items at most." }

--- Where a page begins.
M.after = like { type = "string", pattern = "^[A-Za-z0-9_-]+$", match = "^[%w_-]+$", max = 512,
  says = "the value `next` of the page before", description = "`next` of the page before." }

--- A point in time, in answers.
M.time = like { type = "string", format = "date-time", example = "2026-01-01T00:00:00Z" }

-- ==== checking =================================================================================

local function fits(field, value)
  if type(field.match) == "string" then
    return value:find(field.match) ~= nil
  end
  for _, pattern in ipairs(field.match or {}) do
    if value:find(pattern) then
      return true
    end
  end
  return field.match == nil
end

local function check_string(field, value)
  local length = type(value) == "string" and utf8.len(value)
  if not length then
    return "must be a string"
  elseif field.says and (length < (field.min or 1) or length > field.max or not fits(field, value)) then
    return "must be " .. field.says
  elseif length < (field.min or 0) or length > (field.max or math.huge) or not fits(field, value) then
    return ("must have %d to %d characters"):format(field.min or 0, field.max or 1 << 20)
  elseif not field.is_text and value:find("%c") then
    return "must have no control characters"
  end
end

local function check_number(field, value)
  local is_integer = field.type == "integer"
  if type(value) ~= "number" or is_integer and math.type(value) ~= "integer" then
    return is_integer and "must be a whole number" or "must be a number"
  elseif value ~= value or value < (field.min or -math.huge) or value > (field.max or math.huge) then
    return ("must be %s to %s"):format(field.min or "anything", field.max or "anything")
  end
end

local CHECKS = {
  string = check_string, integer = check_number, number = check_number,
  boolean = function(_, value)
    return type(value) ~= "boolean" and "must be true or false" or nil
  end,
}

--- Checks a value that is there.
-- @tparam table field
-- @param value
-- @treturn[1] nil when it is good
-- @treturn[2] string what it must be
function M.fault(field, value)
  local fault = CHECKS[field.type](field, value)
  if fault or not field.enum then
    return fault
  end
  for _, choice in ipairs(field.enum) do
    if value == choice then
      return nil
    end
  end
  return "must be one of " .. table.concat(field.enum, ", ")
end

local READ = {
  string = function(text) return text end,
  integer = function(text) return text:find "^%-?%d+$" and #text < 19 and math.tointeger(text) or text end,
  number = function(text) return text:find "^%-?%d+%.?%d*$" and #text < 32 and tonumber(text) or text end,
  boolean = function(text)
    if text == "true" then return true elseif text == "false" then return false end
    return text
  end,
}

--- Reads a parameter, which comes as text.
-- @treturn[1] value
-- @treturn[1] nil
-- @treturn[2] nil
-- @treturn[2] string what it must be
function M.read(field, text)
  local value = READ[field.type](text)
  local fault = M.fault(field, value)
  if fault then
    return nil, fault
  end
  return value
end

--- Checks the fields of an object.
-- @tparam table properties name → field
-- @tparam table given name → value; null counts as absent
-- @treturn[1] table values, with defaults
-- @return[2] nil
-- @treturn[2] string the name of the field that is wrong
-- @treturn[2] string what is wrong with it
function M.object(properties, given)
  local values = {}
  for name in pairs(given) do
    if not properties[name] then
      return nil, tostring(name), "is unknown"
    end
  end
  for name, field in pairs(properties) do
    local value = given[name]
    if value == json.null then
      value = nil
    end
    if value ~= nil then
      local fault = M.fault(field, value)
      if fault then
        return nil, name, fault
      end
    elseif field.required then
      return nil, name, "is missing"
    else
      value = field.default
    end
    values[name] = value
  end
  return values
end

--- Whether an object may not be left out: something of it is required.
-- @tparam table field
-- @treturn boolean
function M.is_needed(field)
  for _, inner in pairs(field.properties) do
    if inner.required then
      return true
    end
  end
  return false
end

-- ==== the document =============================================================================

local NAMES = { string = { min = "minLength", max = "maxLength" }, integer = { min = "minimum", max = "maximum" },
  number = { min = "minimum", max = "maximum" } }

-- Required properties of an answer are all that it has; of a request those that say so.
local function object_document(field, is_answer)
  local properties, required = {}, json.array {}
  for name, inner in pairs(field.properties or {}) do
    properties[name] = M.document(inner, is_answer)
    if is_answer and not inner.optional or inner.required then
      required[#required + 1] = name
    end
  end
  table.sort(required)
  return { type = "object", properties = next(properties) and properties or nil,
    required = #required > 0 and required or nil, description = field.description,
    additionalProperties = not is_answer and field.properties ~= nil and false or nil }
end

--- A field as a JSON schema.
-- @tparam table field
-- @tparam[opt] boolean is_answer whether it is part of an answer
-- @treturn table
function M.document(field, is_answer)
  local document
  if field.type == "object" then
    document = object_document(field, is_answer)
  else
    document = { type = field.type, description = field.description, default = field.default, pattern = field.pattern,
      format = field.format, enum = field.enum and json.array { table.unpack(field.enum) } }
    for name, keyword in pairs(NAMES[field.type] or {}) do
      document[keyword] = field[name]
    end
    document.items = field.items and M.document(field.items, is_answer)
    document.examples = field.example ~= nil and json.array { field.example } or nil
  end
  if field.nullable then
    document.type = json.array { document.type, "null" }
    if document.enum then
      document.enum[#document.enum + 1] = json.null
    end
  end
  return document
end

return M
