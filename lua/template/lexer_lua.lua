--- Lexes Lua 5.4 text that holds placeholders, and tells in which lexical place each one stands.
-- Follows Lua's own lexer (a number is as greedy as there; line ends come in four forms), because a placeholder that
-- is thought to stand in a string and really stands outside would let a value become code. Knows no values.
-- @module template.lexer_lua

local lpeg = require "lpeg"
local mark = require "template.mark"

local M = {}

local P, S, R, C, Cc, Cp, Ct = lpeg.P, lpeg.S, lpeg.R, lpeg.C, lpeg.Cc, lpeg.Cp, lpeg.Ct

local blank = S " \t\v\f\r\n"
local digit, hex, alnum = R "09", R("09", "af", "AF"), R("09", "az", "AZ") + "_"
local line_end = P "\r\n" + "\n\r" + "\n" + "\r"

local function quoted(quote)
  local escape = P "\\z" * blank ^ 0 + P "\\" * (line_end + 1)
  return P(quote) * (escape + (1 - S(quote .. "\\\r\n"))) ^ 0 * P(quote)
end

-- As greedy as Lua's: "3..x" and "0xep-1" are (malformed) numbers too.
local hexadecimal = P "0" * S "xX" * (S "pP" * S "+-" ^ -1 + hex + ".") ^ 0
local decimal = (S "eE" * S "+-" ^ -1 + hex + ".") ^ 0
local number = #(digit + P "." * digit) * (hexadecimal + decimal) * alnum ^ 0

local operator = P "..." + ".." + "==" + "~=" + "<=" + ">=" + "<<" + ">>" + "//" + "::" + 1

-- One token after blanks: its kind, where it begins, what it captures, where it ends.
local token = blank ^ 0 * Cp() * (
    mark.place * Cc "place"
  + mark.kept * Cc "kept"
  + C "--" * Cc "comment"
  + C(P "[" * P "=" ^ 0 * "[") * Cc "long"
  + Cc "" * (quoted '"' + quoted "'") * Cc "string"
  + C(S "\"'") * Cc "unfinished"
  + C(number) * Cc "number"
  + C((R("az", "AZ") + "_") * alnum ^ 0) * Cc "name"
  + C(operator) * Cc "operator"
) * Cp()

-- Inside quotes: marks, valid escapes, anything else.
local pieces = {}
for _, quote in ipairs { '"', "'" } do
  local escape = P "\\" * (S "abfnrtv\\\"'" + line_end + P "x" * hex * hex + P "u{" * hex ^ 1 * "}")
  local piece = Ct(Cp() * Cc "place" * mark.place)
    + Ct(Cp() * Cc "kept" * mark.kept)
    + Ct(Cp() * Cc "skip" * C(P "\\z" * blank ^ 0))
    + Ct(Cp() * Cc "decimal" * C(P "\\" * digit * digit ^ -2))
    + Ct(Cp() * Cc "text" * C((escape + (1 - S("\\" .. quote) - mark.place - mark.kept)) ^ 1))
    + Ct(Cp() * Cc "bad" * C(P "\\" * P(1)))
  pieces[quote] = Ct(piece ^ 0)
end

local function fault(pos, message, length, hint)
  return { pos = pos, message = message, length = length, hint = hint }
end

-- "\{{x}}", "\x4{{x}}", "\u{{{x}}}"
local ESCAPE_REACH <const> = "^\\u?{?%w*()"

-- The inside of a string in quotes as strings and `{name, pos, length, after_z}`; nil and a diagnosis.
-- An escape sequence that would reach into the value is closed first: "\1{{x}}" becomes "\001{{x}}"; after "\z"
-- neither the value nor, when it is empty, the blanks behind it may be swallowed.
local function split_quoted(text, from, to)
  local out, skipping, short = {}, false, nil
  for _, piece in ipairs(lpeg.match(pieces[text:sub(from, from)], text, from + 1)) do
    local pos, kind, what = piece[1], piece[2], piece[3]
    if pos >= to then break end
    if kind == "bad" then return nil, mark.broken_escape(text, pos, to, ESCAPE_REACH, "Lua") end
    if kind == "place" then
      if short then out[#out] = ("\\%03d"):format(tonumber(short:sub(2))) end
      out[#out + 1] = { name = what, pos = pos, length = #what + 4, after_z = skipping }
    elseif kind == "text" and skipping and type(out[#out]) == "table" and what:find("^[ \t\v\f]") then
      out[#out + 1] = ("\\%03d"):format(what:byte()) .. what:sub(2)
    else
      out[#out + 1] = what
    end
    short = kind == "decimal" and what or nil
    skipping = kind == "skip" or (skipping and kind == "place")
  end
  return out
end

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch "%a+" do
  KEYWORDS[word] = true
end
M.KEYWORDS = KEYWORDS

-- Lines of a file that Lua's loader passes over: a byte order mark, and a first line that begins with "#".
local function prologue(text)
  local at = text:sub(1, 3) == "\xEF\xBB\xBF" and 4 or 1
  if text:sub(at, at) ~= "#" then return at end
  return at, (text:find("\n", at, true) or #text + 1) - 1
end

local scanner = {}
scanner.__index = scanner

-- Where the next "{{" is: sought once, not from every literal of a long file.
function scanner:mark_from(from)
  if self.mark < from then self.mark = self.text:find("{{", from, true) or math.huge end
  return self.mark
end

-- Notes a literal or comment that holds marks; `body` says where they may stand.
function scanner:region(kind, from, to, body_from, body_to, extra)
  if self:mark_from(from) > to then return end
  local region = { kind = kind, from = from, to = to, body_from = body_from, body_to = body_to }
  for key, value in pairs(extra or {}) do region[key] = value end
  if kind == "quoted" then
    local split, bad = split_quoted(self.text, from, to)
    if not split then
      self.faults[#self.faults + 1] = bad
      return
    end
    region.pieces = split
  end
  local split, warnings = mark.split(self.text, body_from, body_to)
  region.pieces = region.pieces or split
  table.move(warnings, 1, #warnings, #self.warnings + 1, self.warnings)
  for _, piece in ipairs(region.pieces) do
    region.marked = region.marked or type(piece) == "table"
  end
  -- A region of kept marks alone has changed text too.
  self.regions[#self.regions + 1] = region
end

-- A long bracket from `open`, whose level is `equals`. Gives its last byte, or nil when it does not end.
function scanner:bracket(kind, from, open, equals)
  local close = "]" .. equals .. "]"
  local body = open + #equals + 2
  local at = self.text:find(close, body, true)
  if not at then
    local what = kind == "long" and "unfinished long string" or "unfinished long comment"
    self.faults[#self.faults + 1] = fault(from, what, 2)
    return nil
  end
  self:region(kind, from, at + #close - 1, body, at - 1, { close = close })
  return at + #close - 1
end

function scanner:comment(from, at)
  local equals = self.text:match("^%[(=*)%[", at)
  if equals then return self:bracket("long_comment", from, at, equals) end
  local stop = (self.text:find("[\r\n]", at) or #self.text + 1) - 1
  self:region("comment", from, stop, at, stop)
  return stop
end

-- Handles one token; gives the position after it, nil when nothing sensible can follow.
function scanner:step(from, what, kind, after)
  if kind == "comment" then
    local stop = self:comment(from, after)
    return stop and stop + 1
  elseif kind == "long" then
    local stop = self:bracket("long", from, from, what:sub(2, -2))
    if not stop then return nil end
    self:follow("string", "", from, stop + 1)
    return stop + 1
  elseif kind == "unfinished" then
    self.faults[#self.faults + 1] = fault(from, "unfinished string", 1)
    return nil
  elseif kind == "string" then
    self:region("quoted", from, after - 1, from + 1, after - 2)
  elseif kind == "place" or kind == "kept" then
    self.regions[#self.regions + 1] = { kind = kind, name = what, from = from, to = after - 1, prev = self.prev }
  end
  self:follow(kind, what, from, after)
  return after
end

-- Remembers a token as the one before the next, and tells the last place what follows it.
function scanner:follow(kind, what, from, after)
  local now = { kind = kind, text = what, from = from, to = after - 1 }
  if self.prev and self.prev.region then
    if kind == "string" then now.text = self.text:sub(from, after - 1) end
    self.prev.region.next = now
  end
  local last = self.regions[#self.regions]
  if kind == "place" and last then now.region = last end
  self.prev = now
end

--- Finds the places of all marks in a Lua text.
-- @tparam string text
-- @treturn table regions in the order of the text, `{kind, from, to, …}`. Kinds: "place" and "kept" (in code, with the
--   tokens `prev` and `next`), "quoted", "long", "comment", "long_comment", "shebang" (with `pieces`: strings and
--   `{name, pos, length}`)
-- @treturn table faults (diagnoses): what Lua's lexer would refuse
-- @treturn table warnings (diagnoses)
function M.scan(text)
  local self = setmetatable({ text = text, regions = {}, faults = {}, warnings = {}, mark = 0 }, scanner)
  local at, shebang = prologue(text)
  if shebang then
    self:region("shebang", at, shebang, at + 1, shebang)
    at = shebang + 1
  end
  while at do
    local from, what, kind, after = lpeg.match(token, text, at)
    if not from then break end
    at = self:step(from, what, kind, after)
  end
  return self.regions, self.faults, self.warnings
end

--- The length of what Lua's loader passes over at the beginning of a file.
-- @tparam string text
-- @treturn integer bytes (a first line that begins with "#" counts without its end)
function M.prologue(text)
  local at, shebang = prologue(text)
  return shebang or at - 1
end

return M
