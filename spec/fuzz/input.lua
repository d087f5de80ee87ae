--- What the targets of the renderer share: an input is a template, then "\xff\xff" and a value, up to three times.
-- Knows how bytes become values, and which values of the hostile corpus are small enough to be tried on every template.
local fuzz = require "fuzz" -- of harness.c
local grammar = require "spec.fuzz.grammar"
local json = require "atelier.json"
local nasty = require "template.nasty"
local values = require "template.values"

local M = {}

local null <const> = json.null

local KINDS = {
  s = function(rest) return rest end,
  i = function(rest) return (("<i8"):unpack(rest .. ("\0"):rep(8))) end,
  f = function(rest) return (("<d"):unpack(rest .. ("\0"):rep(8))) end,
  n = function() return null end,
  t = function() return true end,
  F = function() return false end,
  a = function(rest)
    local list = {}
    for item in rest:gmatch("[^,]+") do list[#list + 1] = math.tointeger(tonumber(item)) or item end
    return json.array(list)
  end,
  o = function(rest) return { a = rest, [rest] = 1, n = null } end,
  q = function(rest)
    local index = ("<I2"):unpack(rest .. "\0\0")
    return nasty.finite[index % #nasty.finite + 1].value
  end,
}

local function value_of(bytes)
  local read = KINDS[bytes:sub(1, 1)]
  if read then return read(bytes:sub(2)) end
  return bytes
end

-- Every name but y and z has the value of x; z is an object with the field a.
local function vars(x, y, z)
  return setmetatable({ x = x, y = y, z = { a = z } }, { __index = function() return x end })
end

local small = {}
for _, case in ipairs(nasty.finite) do
  local text = values.expression(case.value)
  if text and #text < 600 then small[#small + 1] = case.value end
end

-- Templates that begin with \1 are written in words: a byte from 128 on stands for one of these, so that a byte's change
-- is a word's.
local WORDS = {
  lua = { "{{x}}", "{{y}}", "{{z.a}}", "{{!x}}", '"{{x}}"', "'{{y}}'", "[[{{x}}]]", "[=[{{y}}]=]", "--{{x}}\n", "--[[{{y}}]]", "--[==[{{x}}]==]",
    '"a{{x}}b{{y}}"', "[[a{{x}}b{{y}}]]", "[[{{x}}{{y}}]]", "--{{x}}{{y}}\r", '"\\z {{x}} "', '"\\1{{x}}0"', '"\\\n{{x}}"', "'\\\\{{x}}'", "]", "]]", "[[",
    "--", "-", "--[[", "--[=[", "]=]", "\n", "\r", "\r\n", "\n\r", " ", "\t", "\\", "\\z", "\\\\", "\\x4", "\\u{", "\\12", '"', "'", "=", "==", "~=", "~",
    "<", "<<", "..", "...", ".", ":", "::", ",", ";", "(", ")", "{", "}", "[", "+", "*", "/", "//", "#", "^", "&", "not ", " and ", " or ",
    "nil", "true", "1", "0x", "0x1p", "1e", ".5", "a", "_ENV", "f", " local ", "local a = ", "local b <const> = ", "return ", " function ",
    "function() ", "(function() ", " end ", " end)()", " do ", "if ", " then ", " else ", " elseif ", "while ", "repeat ", " until ", "for i = ",
    " in ", "goto l ", "::l::", " break ", "a = ", "a.b = ", "a[{{x}}] = ", "f({{x}}) ", "f'{{x}}' ", "f{ {{x}} } ", "{[{{x}}] = {{y}}}", "({{x}}).b",
    "-{{x}}", "a - {{x}} ", "#{{y}}",
    "{{x}}\n(f)() ", "\0", "\xEF\xBB\xBF", "#!", "{{", "}}", "{{ x }}", "a:b", "local function f(...) ", "\xff" },
  json = { "{{x}}", "{{y}}", "{{z.a}}", "{{!x}}", '"{{x}}"', '"{{x}}": ', '"a{{y}}": ', '"{{!x}}{{x}}"', '"a": ', '"b": {{y}}', "[{{x}}, {{y}}]",
    "[", "]", "{", "}",
    ",", ":", ", ", '"', "true", "false", "null", "0", "-", "1", ".5", "e5", "E-", "1.5e3", " ", "\n", "\r\n", "\t", "\\", "\\\\", '\\"', "\\/", "\\n", "\\u",
    "\\u0041", "\\u0000", "\\ud83d", "\\ude00", '"\\u0041{{x}}"', '"\\ud83d\\ude00{{y}}"', "{}", "[]", '""', "é", "\xff", "\0", "\xEF\xBB\xBF", "{{", "}}",
    "NaN", "9223372036854775807", "9223372036854775808", "[[[[[[[[", "]]]]]]]]", '{"a": [', "]}", '"a": {{x}}, ', '"b": "{{y}}", ' },
}

-- The template of an input's first part: \1 begins words, \2 the choices of a grammar, anything else is itself.
local function spell(part, language)
  local words, rest = WORDS[language], part:sub(2)
  if part:byte() == 2 then return grammar.template(language, rest) end
  if part:byte() ~= 1 then return part end
  return (rest:gsub("[\128-\255]", function(char) return words[(char:byte() - 128) % #words + 1] end))
end

--- Splits an input.
-- @tparam string data
-- @tparam string language of the words: "lua" or "json"
-- @treturn string template
-- @treturn table lists of variables, the given ones first, then some of the corpus, chosen by the input's length and bytes
function M.split(data, language)
  local parts = {}
  for part in (data .. "\xff\xff"):gmatch("(.-)\xff\xff") do parts[#parts + 1] = part end
  local x, y, z = value_of(parts[2] or "x"), value_of(parts[3] or "y"), value_of(parts[4] or "z")
  local sets = { vars(x, y, z) }
  local seed = #data * 2654435761
  for i = 1, math.min(#data, 200) do seed = seed * 31 + data:byte(i) end
  for i = 2, 4 do
    local function pick(n) return small[(seed >> (n * 8 + i)) % #small + 1] end
    sets[i] = vars(pick(0), pick(1), pick(2))
  end
  return spell(parts[1], language), sets
end

--- The value at a dotted name.
function M.lookup(given, name)
  local value = given
  for word in name:gmatch("[^.]+") do
    if type(value) ~= "table" or value == null then return nil end
    value = value[word]
  end
  return value
end

--- Raises a finding that shows the bytes.
function M.finding(what, ...)
  local out = { what }
  for i = 1, select("#", ...) do out[#out + 1] = ("  %d: %q"):format(i, tostring((select(i, ...)))) end
  error(table.concat(out, "\n"), 2)
end

--- Tells the fuzzer of a message, without what is the input's own in it.
function M.message(message)
  fuzz.feature((message:match("^[^\n]*"):gsub("%d+", "#"):gsub("{{.-}}", "V"):gsub("'.-'", "'"):gsub("near .*", "")))
end

return M
