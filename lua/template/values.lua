--- Writes a value for the place where it stands: one writer per place.
-- A writer takes a value and gives text, or `nil` and a reason that reads after the variable's name ("{{x}} is …").
-- A writer knows nothing of templates. A value is a string of any bytes, a number, a boolean, `json.null`, or a table:
-- an array (marked by `json.array`, or a sequence) or an object with string keys.
-- @module template.values

local json = require "atelier.json"

local M = {}

local null <const> = json.null
local array_mt <const> = json.array_mt
local find, gsub, format, concat = string.find, string.gsub, string.format, table.concat

--- Tables inside tables that a Lua value may have. Lua's parser stops at 200 nested constructs of any kind.
M.LUA_DEPTH = 120
--- The same for JSON.
M.JSON_DEPTH = 500

--- Is a table written as a list?
-- @tparam table t
-- @treturn boolean
function M.is_array(t)
  return getmetatable(t) == array_mt or #t > 0
end

local function float_text(value)
  if value ~= value then return nil, "is NaN, which has no text form" end
  if value == math.huge or value == -math.huge then return nil, "is infinite, which has no text form" end
  local text
  for digits = 15, 17 do
    text = format("%." .. digits .. "g", value):gsub(",", ".")
    if tonumber(text) == value then break end
  end
  if not find(text, "[.e]") then text = text .. ".0" end
  return text
end

local function number_text(value)
  if math.type(value) == "integer" then return format("%d", value) end
  return float_text(value)
end

--- A value as plain text: for text files, comments and long brackets.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.plain(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" then return number_text(value) end
  if kind == "boolean" then return tostring(value) end
  if value == null then return nil, "is null, which has no text form" end
  if kind == "table" then
    return nil, ("is a %s, which has no text form"):format(M.is_array(value) and "list" or "table")
  end
  return nil, "is a Lua " .. kind .. ", which no text can carry"
end
local plain = M.plain

local LUA_ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["'"] = "\\'" }
for byte = 0, 255 do
  local char = string.char(byte)
  LUA_ESCAPES[char] = LUA_ESCAPES[char] or format("\\%03d", byte)
end

local function lua_escape(text)
  if not find(text, "[^]^-~(-[ !#-&]") then return text end
  -- Text in UTF-8 stays readable; bytes that are none become escapes, so that the file stays a text file.
  if utf8.len(text) then return (gsub(text, "[%z\1-\31\"'\\\127]", LUA_ESCAPES)) end
  return (gsub(text, "[%z\1-\31\"'\\\127-\255]", LUA_ESCAPES))
end

--- Characters of a Lua string in quotes.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.quoted(value)
  if type(value) == "string" then return lua_escape(value) end
  return plain(value)
end

--- The same after a `\z`, which would swallow blanks: none is left.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.quoted_after_z(value)
  local text, reason = M.quoted(value)
  if not text then return nil, reason end
  return (gsub(text, "^ +", function(blanks) return ("\\032"):rep(#blanks) end))
end

-- Sorted string keys of an object; nil and a reason if there are others.
local function object_keys(t)
  local keys = {}
  for key in next, t do
    if type(key) ~= "string" then return nil, "has a table whose keys are neither a list nor all strings" end
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

-- A list must have the keys 1..n and no others.
local function list_length(t)
  local n, count = #t, 0
  for key in next, t do
    if math.type(key) ~= "integer" or key < 1 or key > n then
      return nil, "has a table that is neither a list nor an object"
    end
    count = count + 1
  end
  if count ~= n then return nil, "has a list with holes (use json.null)" end
  return n
end

local REGISTERS <const> = 52 -- a table constructor that needs more gets a function of its own (Lua has 255 for all)
local LEVELS <const> = 150   -- nested constructs of Lua's parser; the template around needs some of the 200 too

--- As much as a value may ask of Lua's parser: LEVELS, and REGISTERS, both at once.
M.LARGEST = ("("):rep(LEVELS - 2) .. "{{" .. ("1,"):rep(50) .. "}}" .. (")"):rep(LEVELS - 2)

local write_lua

-- Items of a constructor. Gives the registers and the parser levels that the deepest item takes.
local function write_items(out, t, depth)
  local list = M.is_array(t)
  local keys, reason
  if list then keys, reason = list_length(t) else keys, reason = object_keys(t) end
  if not keys then return nil, reason end
  local most, deepest = 0, 0
  for i = 1, list and keys or #keys do
    local key = i
    if i > 1 then out[#out + 1] = ", " end
    if not list then
      key = keys[i]
      out[#out + 1] = '["' .. lua_escape(key) .. '"] = '
    end
    local registers, levels = write_lua(out, t[key], depth)
    if not registers then return nil, levels end
    if registers > most then most = registers end
    if levels > deepest then deepest = levels end
  end
  -- Up to 50 items of a list wait in registers until Lua stores them; a keyed item needs its key and its value.
  return most + 1 + (list and math.min(keys, 50) or 2), deepest + 1
end

local function write_table(out, t, depth)
  if depth > M.LUA_DEPTH then return nil, "has tables nested more than " .. M.LUA_DEPTH .. " deep" end
  local first = #out + 1
  out[first] = "{"
  local registers, levels = write_items(out, t, depth)
  if not registers then return nil, levels end
  out[#out + 1] = "}"
  if registers > REGISTERS then
    out[first], out[#out] = "(function() return {", "} end)()"
    registers, levels = 2, levels + 4
  end
  if levels > LEVELS then return nil, "has tables nested too deeply for Lua's parser" end
  return registers, levels
end

-- Appends a literal; gives the registers and parser levels that it needs, or nil and a reason.
function write_lua(out, value, depth)
  local kind = type(value)
  if kind == "table" then return write_table(out, value, depth + 1) end
  local text, reason
  if kind == "string" then
    text = '"' .. lua_escape(value) .. '"'
  elseif value == null then
    text = "nil"
  elseif value == math.mininteger and math.type(value) == "integer" then
    text = "(-9223372036854775807-1)" -- 9223372036854775808 would be a float
  else
    text, reason = plain(value)
    if text and text:byte() == 45 then text = "(" .. text .. ")" end -- else "-" before it would begin a comment
  end
  if not text then return nil, reason end
  out[#out + 1] = text
  return 1, 1
end

--- A Lua literal.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.expression(value)
  local out = {}
  local registers, reason = write_lua(out, value, 0)
  if not registers then return nil, reason end
  return concat(out)
end

local JSON_ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
for byte = 0, 31 do
  local char = string.char(byte)
  JSON_ESCAPES[char] = JSON_ESCAPES[char] or format("\\u%04x", byte)
end

local function json_escape(text)
  if not find(text, "[^]^-~#-[ !]") then return text end
  local length, bad = utf8.len(text)
  if not length then return nil, format("is not UTF-8 (byte %d), and JSON carries nothing else", bad) end
  return (gsub(text, '[%z\1-\31"\\]', JSON_ESCAPES))
end

--- Characters of a JSON string.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.json_string(value)
  if type(value) == "string" then return json_escape(value) end
  return plain(value)
end

local function json_key(text)
  -- Legal JSON, but jansson and whatever else keeps keys as C strings refuse it.
  if find(text, "%z") then return nil, "holds a NUL, which the key of a JSON object cannot" end
  return json_escape(text)
end

--- Characters of a JSON string that is a key.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.json_key(value)
  if type(value) == "string" then return json_key(value) end
  return plain(value)
end

local write_json

local function write_members(out, t, depth)
  local list = M.is_array(t)
  local keys, reason
  if list then keys, reason = list_length(t) else keys, reason = object_keys(t) end
  if not keys then return nil, reason end
  out[#out + 1] = list and "[" or "{"
  for i = 1, list and keys or #keys do
    if i > 1 then out[#out + 1] = ", " end
    local key = i
    if not list then
      key = keys[i]
      local name, why = json_key(key)
      if not name then return nil, "has a key that " .. why end
      out[#out + 1] = '"' .. name .. '": '
    end
    local done, why = write_json(out, t[key], depth)
    if not done then return nil, why end
  end
  out[#out + 1] = list and "]" or "}"
  return true
end

function write_json(out, value, depth)
  local kind = type(value)
  if kind == "table" then
    if depth >= M.JSON_DEPTH then return nil, "has tables nested more than " .. M.JSON_DEPTH .. " deep" end
    return write_members(out, value, depth + 1)
  end
  local text, reason
  if kind == "string" then
    text, reason = json_escape(value)
    if text then text = '"' .. text .. '"' end
  elseif value == null then
    text = "null"
  else
    text, reason = plain(value)
  end
  if not text then return nil, reason end
  out[#out + 1] = text
  return true
end

--- JSON text of a value; keys sorted.
-- @param value
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string reason
function M.json_value(value)
  local out = {}
  local done, reason = write_json(out, value, 0)
  if not done then return nil, reason end
  return concat(out)
end

return M
