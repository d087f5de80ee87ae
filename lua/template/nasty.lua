--- Values that break careless renderers: the corpus of `template check` and of the specs.
-- Each is `{name, value}`; `strings`, `finite` (every value that JSON can carry) and `impossible` list them.
-- @module template.nasty
local json = require "atelier.json"

local M = { strings = {}, finite = {}, impossible = {} }

local null = json.null

local function each_byte(f)
  for byte = 0, 255 do f(byte, string.char(byte)) end
end

-- Each with what it is after: quotes and their escapes, ends of lines and brackets, comments, patterns, other marks,
-- other languages, numbers and words of Lua, blanks at the ends, text beyond ASCII.
local WORDS <const> = {
  '"', "'", "\\", "\\\\", "\\n", "\n", "\r", "\r\n", "\n\r", "\0", "\t", "\v", "\f", "\27[31m", "\127",
  "]]", "]", "]=]", "]==]", "]=", "a]", "[[", "[", "[==[", "[=", "--", "--[[", "--]]", "//", "/*", "*/",
  "%1", "%%", "%s", "%n", "{{other}}", "{{!other}}", "{{", "}}", "{", "}", "</script>", "<!--", "${x}", "`x`", "$(x)",
  "'; os.exit() --", '" .. x .. "', '"); os.execute("id"); --', "]] os.exit() --[[",
  "\\z", "\\x41", "\\u{41}", "\\065", "0", "1", "-1", "00", "01", "0x10", "1e5", "9e999", "nan", "inf",
  "true", "nil", "null", "end", " ", "  ", " leading", "trailing ", "\n leading", "trailing\n",
  "\n\n", "line one\nline two", "a\rb", "a\0b", "#!", "#", "=", "==", "::x::", ";", ",", "(", ")", "(f)()", "..", "...",
  "日本語", "é", "e\u{301}", "👑", "\u{2028}", "\u{2029}", "\u{feff}", "\u{feff}x", "\u{202e}abc", "\u{10ffff}", "\u{fffe}",
}

local NOT_UTF8 <const> = {
  "\x80", "\xff", "\xc0\x80", "\xe3\x81", "\xed\xa0\x80", "\xf4\x90\x80\x80", "ok\xfe", "\xf8\x88\x80\x80\x80",
  "\u{3042}\x80", '\xe3"', "\xc3\\",
}

local function string_values(add)
  add("empty", "")
  add("plain", "DEMO-PRO-001")
  for _, word in ipairs(WORDS) do add("string " .. ("%q"):format(word), word) end
  for _, bad in ipairs(NOT_UTF8) do add("not UTF-8 " .. ("%q"):format(bad), bad) end
  each_byte(function(byte, char)
    add(("byte %d"):format(byte), char)
    add(("byte %d before a digit"):format(byte), char .. "1")
    add(("byte %d at the end"):format(byte), "x" .. char)
  end)
  local all = {}
  each_byte(function(_, char) all[#all + 1] = char end)
  add("every byte", table.concat(all))
  add("every byte twice, backwards", table.concat(all):reverse() .. table.concat(all))
  add("a long one", ("x\\\"'\n]]"):rep(3000))
end

local function number_values(add)
  for _, n in ipairs { 0, 1, -1, 42, 255, 256, -256, 2 ^ 53 | 0, (2 ^ 53 | 0) + 1, -(2 ^ 53 | 0) - 1, 1 << 62,
    math.maxinteger, math.maxinteger - 1, math.mininteger, math.mininteger + 1 } do
    add(("integer %d"):format(n), n)
  end
  for _, n in ipairs { 0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 2 ^ 53, 2.0 ^ 63, -2.0 ^ 63, 1e15, 1e16, 1e17, 1e100, 1e308,
    -1e308, 1.7976931348623157e308, 5e-324, -5e-324, 2.2250738585072014e-308, 123456789.125, 0.30000000000000004, 1e-7,
    1e21 } do
    add(("float %.17g"):format(n), n)
  end
end

local function nested(depth, wrap, core)
  local value = core
  for _ = 1, depth do value = wrap(value) end
  return value
end

local function repeated(n, value)
  local list = {}
  for i = 1, n do list[i] = value == nil and i or value end
  return list
end

local function table_values(add)
  local array = json.array
  add("empty list", array {})
  add("empty object", {})
  add("list of empties", array { array {}, {}, array { array {} } })
  add("tools", array { "timeline", "basic_analysis" })
  add("mixed list", array { 1, 1.0, "1", true, false, array {}, {} })
  add("nulls inside", array { 1, null, 3 })
  add("null first", array { null, 2 })
  add("null last", array { 1, null })
  add("null in an object", { a = null, b = 1 })
  add("keywords", { ["end"] = 1, ["nil"] = 2, ["goto"] = 3, ["and"] = 4, ["true"] = 5, ["_ENV"] = 6, self = 7 })
  add("odd keys", { [""] = 1, [" "] = 2, ["1"] = 3, ["-1"] = 4, ["a b"] = 5, ["a-b"] = 6, ["日本"] = 7,
    ['"'] = 8, ["]]"] = 9, ["\n"] = 10, ["\\"] = 11, ["\0"] = 12, ["{{x}}"] = 13, ["__index"] = 14, ["__gc"] = 15 })
  add("long key", { [("k"):rep(5000)] = 1 })
  add("quotes inside", array { '"', "'", "\\", "]]", "\n", "\r", { ['"]] = 1 --'] = "x" } })
  add("many items", repeated(1000))
  add("60 by 60", repeated(60, repeated(60)))
  add("rows of rows", repeated(3, repeated(50, repeated(51))))
  add("wide rows", nested(12, function(v)
    local row = repeated(49)
    row[50] = v
    return row
  end, 1))
  add("lists 100 deep", nested(100, function(v) return array { v } end, 1))
  add("objects 100 deep", nested(100, function(v) return { a = v } end, 1))
  add("objects with long keys 100 deep", nested(100, function(v) return { [("k"):rep(60)] = v, z = 1 } end, 1))
  local many = {}
  for i = 1, 3000 do many["key" .. i] = "value " .. i end
  add("many keys", many)
  local deep_many = nested(40, function(v) return { v, { v = "x" }, many.key1 } end, "core")
  add("many constants, deep", array { many, deep_many })
end

--- A megabyte of what must be escaped: once, not in every place.
M.megabyte = ("x\\\"'\n]]"):rep(150000)

local function add_to(list)
  return function(name, value) list[#list + 1] = { name = name, value = value } end
end

string_values(add_to(M.strings))
table.move(M.strings, 1, #M.strings, 1, M.finite)
number_values(add_to(M.finite))
add_to(M.finite)("true", true)
add_to(M.finite)("false", false)
add_to(M.finite)("null", null)
table_values(add_to(M.finite))

add_to(M.impossible)("NaN", 0 / 0)
add_to(M.impossible)("-NaN", -(0 / 0))
add_to(M.impossible)("infinity", math.huge)
add_to(M.impossible)("minus infinity", -math.huge)
add_to(M.impossible)("NaN in a list", json.array { 1, 0 / 0 })
add_to(M.impossible)("infinity in an object", { a = { b = math.huge } })
add_to(M.impossible)("300 deep", nested(3000, function(v) return json.array { v } end, 1))
add_to(M.impossible)("a function", print)
add_to(M.impossible)("a coroutine", coroutine.create(print))
add_to(M.impossible)("a list with a hole", { 1, nil, 3, x = 1 })
add_to(M.impossible)("boolean key", { [true] = 1 })
add_to(M.impossible)("float key", { [1.5] = 1 })

--- Are two values the same, byte for byte, integer for integer? Null in a table is absent.
-- @param a
-- @param b
-- @treturn boolean
function M.same(a, b)
  if a == null then a = nil end
  if b == null then b = nil end
  if math.type(a) ~= math.type(b) or type(a) ~= type(b) then return false end
  if type(a) ~= "table" then return a == b and (math.type(a) ~= "float" or 1 / a == 1 / b) end
  for key, value in next, a do
    if not M.same(value, b[key]) then return false end
  end
  for key, value in next, b do
    if a[key] == nil and value ~= null then return false end
  end
  return true
end

return M
