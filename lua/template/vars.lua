--- Reads VARS.json, the values for a rendering: JSON, but with a file's own bytes and without judgement.
-- Strings may hold any bytes as they stand; integers and floats stay apart; NaN, -NaN, Infinity and -Infinity are read,
-- because refusing them is the renderer's business, whose message names the variable. In all else it is strict.
-- @module template.vars

local diagnostic = require "template.diagnostic"
local json = require "atelier.json"

local M = {}

local MAX_DEPTH <const> = 1000

local SIMPLE = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local WORDS = {
  ["true"] = true, ["false"] = false, ["null"] = json.null,
  NaN = 0 / 0, ["-NaN"] = 0 / 0, Infinity = math.huge, ["-Infinity"] = -math.huge,
}

local function fail(pos, message) error({ pos = pos, message = message }, 0) end

local function skip(text, at) return text:find("[^ \t\r\n]", at) or #text + 1 end

-- The character of a \u escape at `at` (behind the "u"), and the position behind it.
local function unicode(text, at)
  local digits = text:match("^%x%x%x%x", at) or fail(at - 2, "four hex digits expected after \\u")
  local code = tonumber(digits, 16)
  if code >= 0xDC00 and code <= 0xDFFF then fail(at - 2, "a low surrogate alone") end
  if code < 0xD800 or code > 0xDBFF then return utf8.char(code), at + 4 end
  local low = tonumber(text:match("^\\u(%x%x%x%x)", at + 4) or "0", 16)
  if low < 0xDC00 or low > 0xDFFF then fail(at - 2, "a high surrogate alone") end
  return utf8.char(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), at + 10
end

local function read_string(text, start)
  local out, at = {}, start + 1
  while true do
    local stop = text:find('["\\]', at) or fail(start, "unfinished string")
    out[#out + 1] = text:sub(at, stop - 1)
    if text:byte(stop) == 34 then return table.concat(out), stop + 1 end
    local char = text:sub(stop + 1, stop + 1)
    if char == "u" then
      out[#out + 1], at = unicode(text, stop + 2)
    else
      out[#out + 1], at = SIMPLE[char] or fail(stop, "invalid escape sequence"), stop + 2
    end
  end
end

local function read_number(at, word)
  local whole = word:match("^%-?(%d+)")
  local rest = whole and word:match("^%-?%d+(.*)$")
  local fraction = rest and (rest == "" or rest:find("^%.%d+$") or rest:find("^%.?%d*[eE][+-]?%d+$"))
  if not fraction or rest:find("^%.[eE]") or (rest ~= "" and rest:find("^%d")) or whole:find("^0%d") then
    fail(at, "no JSON value")
  end
  if rest == "" then
    return math.tointeger(tonumber(word)) and math.type(tonumber(word)) == "integer" and tonumber(word)
      or fail(at, "an integer outside of 64 bits")
  end
  local value = tonumber(word)
  if value == math.huge or value == -math.huge then fail(at, "a number too large for a float") end
  return value
end

local read_value

-- Shared by lists and objects: `item` reads one member; gives the position behind the closing sign.
local function read_members(text, at, close, item)
  at = skip(text, at + 1)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = skip(text, item(at))
    local sign = text:sub(at, at)
    if sign == close then return at + 1 end
    if sign ~= "," then fail(at, ("a comma or %s expected"):format(close)) end
    at = skip(text, at + 1)
  end
end

local function read_list(text, start, depth)
  local list = {}
  return json.array(list), read_members(text, start, "]", function(at)
    list[#list + 1], at = read_value(text, at, depth)
    return at
  end)
end

local function read_object(text, start, depth)
  local object = {}
  return object, read_members(text, start, "}", function(at)
    if text:byte(at) ~= 34 then fail(at, "a key in quotes expected") end
    local key, after = read_string(text, at)
    if object[key] ~= nil then fail(at, "a key that was there before") end
    after = skip(text, after)
    if text:byte(after) ~= 58 then fail(after, "a colon expected") end
    object[key], after = read_value(text, skip(text, after + 1), depth)
    return after
  end)
end

function read_value(text, at, depth)
  local sign = text:sub(at, at)
  if sign == '"' then return read_string(text, at) end
  if sign == "{" or sign == "[" then
    if depth >= MAX_DEPTH then fail(at, ("nested more than %d deep"):format(MAX_DEPTH)) end
    return (sign == "{" and read_object or read_list)(text, at, depth + 1)
  end
  local word = text:match("^[%w.+-]+", at) or fail(at, at > #text and "the text ends too early" or "no JSON value")
  local known = WORDS[word]
  if known == nil then known = read_number(at, word) end
  return known, at + #word
end

--- Reads the values.
-- @tparam string text a JSON object
-- @tparam[opt="VARS"] string name of the file, for messages
-- @treturn[1] table values by name; arrays carry `json.array_mt`, null is `json.null`
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "vars"
function M.read(text, name)
  local ok, object, after = pcall(function()
    local at = skip(text, text:sub(1, 3) == "\xEF\xBB\xBF" and 4 or 1)
    if text:sub(at, at) ~= "{" then fail(at, "an object expected: { \"name\": value, ... }") end
    local value, stop = read_value(text, at, 0)
    return value, skip(text, stop)
  end)
  if ok and after <= #text then ok, object = false, { pos = after, message = "text after the end of the object" } end
  if ok then return object end
  if type(object) ~= "table" then error(object, 0) end
  return nil, diagnostic.format(object, text, name or "VARS"), "vars"
end

return M
