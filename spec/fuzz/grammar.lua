--- Templates that are right by construction: a grammar whose alternatives are chosen by the bytes of an input, so that
-- each change of a byte gives another right template. Most of what it makes compiles, with marks in every lexical place.
local M = {}

local PIECE <const> = {
  "a", "{{x}}", "{{y}}", "{{z.a}}", "{{!x}}", "{{!!y}}", " ", "1", "{", "{{", "}", "é", "\xff", "--", "[[", "]", "{{ x }}", "%1",
}

local function with(list, ...)
  local all = table.move(list, 1, #list, 1, {})
  return table.move({ ... }, 1, select("#", ...), #all + 1, all)
end

local COMMON <const> = with(PIECE, "\\n", "\\\\", "\\65", "\\1", "\\12", "\\x41", "\\u{41}",
  "\\u{7fffffff}", "\\z", "\\z ", "\\z\r\n ", "\\z{{x}}", "\\z {{y}}",
  "\\z{{x}} ", "\\z{{x}}{{y}}\t", "\\1{{x}}", "\\12{{y}}", "\\{{x}}", "\\\n", "\\\r\n", "\\\r", "\\\n\r")

--- The first alternative ends: it is taken when the bytes or the depth are used up.
M.lua = {
  start = { "<chunk>", "#!{{x}}\n<chunk>", "\xEF\xBB\xBF<chunk>", "return {{x}}<gap>" },
  chunk = { "", "<stat><end><chunk>", "<stat><end><stat><end>", "<gap><chunk>" },
  ["end"] = { "\n", " ", ";", "\r\n", "\r", "\n\r", "--<short>\n", " --[[<long>]]", "--[=[<long>]=]" },
  stat = {
    "local a = <expr>", "f(<expr>)", "f<string>", "a[<expr>]=<expr>", "do <chunk> end", "if <expr> then <chunk> end", "(f)()",
    "(function() end)(<expr>)", "local v<gap>=<expr>\n(f)()", "while<gap>{{x}}<gap>do <chunk> end", "repeat <chunk> until <expr>", "f{<items>}",
    "for i=<expr>,<expr> do <chunk> end", "for k in <expr> do <chunk> end", "local function g(...)<chunk> end", "local c <const> = <expr>",
    "a.b, c = <expr>, <expr>", "do return <expr> end", "if{{x}}then<chunk>end", "do return{{x}}end", "a:m(<expr>)",
    "if <expr> then <chunk> elseif <expr> then <chunk> else <chunk> end",
    "local {{!x}}", "goto l<end>::l::", "a=<gap><expr><gap>b=<expr>",
  },
  gap = { " ", "", "\n", "\t", "\r\n", "\f\v", "--<short>\n", "--[[<long>]]", "--[=[<long>]=]", "--<short>\r" },
  expr = {
    "{{x}}", "{{y}}", "{{z.a}}", "<string>", "<string>", "<string>", "<gap>{{x}}<gap>", "(<expr>)", "<expr><op><expr>", " -<expr>", " not <expr>", " #<expr>",
    " ~<expr>", "{<items>}", "f(<expr>,<expr>)", "function(...)<chunk> end", " 1 ", " 0x1p4 ", " nil ", " ... ", " a ", "a[<expr>]", "a.b", "f<string>",
    "({{x}}).y", "({{x}})<string>", "{{{x}}}", "{{ {{x}} }}", "not{{x}}", " -{{x}}", " -{{y}}^{{x}}",
    "{{x}}..{{y}}", "{{x}}or{{y}}", "a-{{x}}--{{y}}\n",
  },
  op = { "+", " -", "*", "/", "//", "%", "^", " .. ", "<", "<=", "==", "~=", "&", "|", "~", "<<", ">>", " and ", " or ", "-<gap>" },
  items = { "", "<expr>", "<expr>,<expr>;", "[<expr>]=<expr>", "a=<expr>,<items>", "<expr>,<items>", "<gap>", "a=<gap>{{x}}<gap>", "{{x}} (<expr>)" },
  string = { '"<double>"', "'<single>'", "[[<long>]]", "[=[<long>]=]", "[==[<long>]==]", '"{{x}}"', "'{{y}}'", "[[\n<long>]]", "[[{{x}}]]" },
  double = { "", "<dq><double>", "<dq><dq><double>", "<dq><dq><dq><dq>" },
  single = { "", "<sq><single>", "<sq><sq><single>", "<sq><sq><sq><sq>" },
  dq = with(COMMON, "'", '\\"', "\\'"),
  sq = with(COMMON, '"', '\\"', "\\'"),
  long = { "", "<lp><long>", "<lp><lp><long>", "<lp><lp><lp><lp>" },
  lp = with(PIECE, "\n", "\r", "\r\n", "\n\r", "\\", '"', "'", "=", "]=", "\\z"),
  short = { "", "<sp><short>", "<sp><sp>", "[<sp>", "[=<sp>" },
  sp = with(PIECE, "[", "=", "[=", "\\", '"', "\0"),
}

M.json = {
  start = {
    "<value>", "[<value>,<items2>]", '{"<text>":<value>,<members2>}', "\xEF\xBB\xBF<value>", "<gap>[<value>,<items>]<gap>", '["<text>","<text>",<items2>]',
    '{"<text>":{{x}},"<text>":"<text>"}',
  },
  gap = { "", " ", "\n", "\r\n", "\t" },
  value = {
    "{{x}}", "{{y}}", "{{z.a}}", '"<text>"', '"<text>"', "[<items>]", "{<members>}", "<gap>{{x}}<gap>", "0", "-1.5e3", "true", "null", "1E-2", "{}", "[]", "-0",
    '"{{x}}"', '{"{{x}}":{{x}}}', "9223372036854775807", "0.1",
  },
  items = { "1", "<value>", "<value>,<items2>" },
  items2 = { "1", "<value>", "<value>,<items2>", "<gap><value><gap>,<value>,<items2>" },
  members = { "", '"<text>":<value>', '"<text>"<gap>:<value>,<members2>' },
  members2 = { '"z":1', '"<text>":<value>', '"{{y}}": <value>,<members2>' },
  text = { "", "<jp><text>", "<jp><jp><text>", "<jp><jp><jp><jp>" },
  jp = with({ "a", "{{x}}", "{{y}}", "{{z.a}}", "{{!x}}", "{{!!y}}", " ", "{", "{{", "}", "é", "'", "{{ x }}", "%1" }, "\\n", "\\\\", '\\"', "\\/", "\\u0041",
    "\\ud83d\\ude00", "\\\\ud83d{{x}}", "\\u2028", "\127", "\\b", "\\u00e9"),
}

--- The template that the bytes choose.
-- @tparam string language "lua" or "json"
-- @tparam string bytes
-- @treturn string
function M.template(language, bytes)
  local rules, at, length = M[language], 0, 0
  local function expand(name, depth)
    local list = rules[name]
    if not list then return nil end -- <const> is Lua's
    at = at + 1
    local byte = depth < 24 and length < 4000 and bytes:byte(at) or 0
    local text = list[byte % #list + 1]
    length = length + #text
    return (text:gsub("<(%w+)>", function(inner) return expand(inner, depth + 1) end))
  end
  return expand("start", 0)
end

return M
