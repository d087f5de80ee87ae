--- The metadata of an `.ate` file: one strict JSON object that anyone may read without a key.
-- Owns which keys there are and what they may hold. Must not know the binary format around it.
local json = require "atelier.json"

local M = {}

local DAYS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function days_in(year, month)
  local leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  return month == 2 and leap and 29 or DAYS[month]
end

--- Whether a text is a time of the form YYYY-MM-DDTHH:MM:SSZ that exists. Such texts sort as the times do.
-- @param text
-- @treturn boolean
function M.is_time(text)
  if type(text) ~= "string" then return false end
  local year, month, day, hour, minute, second =
    text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)Z$")
  if not year then return false end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  return month >= 1 and month <= 12 and day >= 1 and day <= days_in(year, month)
    and tonumber(hour) < 24 and tonumber(minute) < 60 and tonumber(second) < 60
end

--- Writes a time the way metadata holds it.
-- @tparam[opt] number seconds since 1970, default now; a fraction is dropped
-- @treturn string
function M.time(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", seconds and math.floor(seconds))
end

local function is_string(value) return type(value) == "string" end

local function is_string_array(value)
  if type(value) ~= "table" then return false end
  local count = 0
  for _, item in pairs(value) do
    if not is_string(item) then return false end
    count = count + 1
  end
  return count == #value and (count > 0 or json.is_array(value))
end

local FIELDS = {
  { "artifact_id", is_string, "a string" },
  { "template", is_string, "a string" },
  { "version", is_string, "a string" },
  { "plan", is_string, "a string" },
  { "tools", is_string_array, "an array of strings" },
  { "generation", function(v) return math.type(v) == "integer" and v >= 1 end, "an integer from 1" },
  { "issued_at", M.is_time, "a time as YYYY-MM-DDTHH:MM:SSZ" },
  { "expires_at", function(v) return v == json.null or M.is_time(v) end, "a time as YYYY-MM-DDTHH:MM:SSZ or null" },
}

--- Checks decoded metadata. Further keys are ignored.
-- @param value
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
function M.check(value)
  if type(value) ~= "table" or json.is_array(value) then return nil, "metadata is not an object" end
  for _, field in ipairs(FIELDS) do
    local key, fits, form = table.unpack(field)
    if value[key] == nil then return nil, ("metadata has no '%s'"):format(key) end
    if not fits(value[key]) then return nil, ("metadata '%s' is not %s"):format(key, form) end
  end
  return true
end

--- Reads and checks metadata.
-- @tparam string text
-- @treturn[1] table
-- @return[2] nil
-- @treturn[2] string reason
function M.decode(text)
  local value, reason = json.decode(text)
  if value == nil then return nil, "metadata: " .. reason end
  local ok
  ok, reason = M.check(value)
  if not ok then return nil, reason end
  return value
end

--- Checks and writes metadata: the same table gives the same bytes. `expires_at` may be nil for null, and a
-- plain empty `tools` becomes an empty array.
-- @tparam table value
-- @treturn[1] string JSON
-- @return[2] nil
-- @treturn[2] string reason
function M.encode(value)
  local copy = {}
  for key, item in pairs(value) do copy[key] = item end
  if copy.expires_at == nil then copy.expires_at = json.null end
  if type(copy.tools) == "table" and next(copy.tools) == nil then copy.tools = json.array {} end
  local ok, reason = M.check(copy)
  if not ok then return nil, reason end
  return json.encode(copy)
end

return M
