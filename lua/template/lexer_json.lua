--- Lexes JSON text that holds placeholders, and tells where each one stands: inside a string, or as a value.
-- Also follows the grammar, so that a placeholder in a wrong place is told as such. Knows no values.
-- @module template.lexer_json

local lpeg = require "lpeg"
local mark = require "template.mark"

local M = {}

local P, S, R, C, Cc, Cp, Ct = lpeg.P, lpeg.S, lpeg.R, lpeg.C, lpeg.Cc, lpeg.Cp, lpeg.Ct

local blank = S " \t\r\n"
local digit, hex = R "09", R("09", "af", "AF")
local control = R "\0\31"

local exponent = S "eE" * S "+-" ^ -1 * digit ^ 1
local number = P "-" ^ -1 * (P "0" + R "19" * digit ^ 0) * (P "." * digit ^ 1) ^ -1 * exponent ^ -1
local string = P '"' * (P "\\" * (1 - control) + (1 - S '"\\' - control)) ^ 0 * P '"'
local word = (R("az", "AZ", "09") + S "+-._") ^ 1

local token = blank ^ 0 * Cp() * (
    mark.place * Cc "place"
  + mark.kept * Cc "kept"
  + C(string) * Cc "string"
  + C(S '{}[],:') * Cc "sign"
  + C(number) * -word * Cc "value"
  + C(P "true" + "false" + "null") * -word * Cc "value"
  + C(word + 1) * Cc "bad"
) * Cp()

local escape = P "\\" * (S '"\\/bfnrt' + P "u" * hex * hex * hex * hex)
local pieces = Ct((Ct(Cp() * Cc "place" * mark.place)
  + Ct(Cp() * Cc "kept" * mark.kept)
  + Ct(Cp() * Cc "text" * C((escape + (1 - S '"\\' - mark.place - mark.kept)) ^ 1))
  + Ct(Cp() * Cc "bad" * C(P "\\" * P(1)))) ^ 0)

local function fault(pos, message, length, hint)
  return { pos = pos, message = message, length = length, hint = hint }
end

-- Of two backslashes the first escapes the second: "\\\\ud83d" are plain characters.
local function ends_in_high_surrogate(text)
  local backslashes = text:match("(\\+)u[dD][89abAB]%x%x$")
  return backslashes and #backslashes % 2 == 1
end

-- The inside of a string as strings and `{name, pos, length}`; nil and a diagnosis.
local function split_string(text, from, to)
  local out = {}
  for _, piece in ipairs(lpeg.match(pieces, text, from + 1)) do
    local pos, kind, what = piece[1], piece[2], piece[3]
    if pos >= to then break end
    if kind == "bad" then return nil, mark.broken_escape(text, pos, to, "^\\u?%w*()", "JSON") end
    if kind == "place" then
      local before = out[#out]
      if type(before) == "string" and ends_in_high_surrogate(before) then
        return nil, fault(pos, ("{{%s}} would split a surrogate pair"):format(what), #what + 4, mark.IN_ESCAPE)
      end
      out[#out + 1] = { name = what, pos = pos, length = #what + 4 }
    else
      out[#out + 1] = what
    end
  end
  return out
end

-- What may come next, and for a sign or a value which state follows. "close" pops.
local VALUE = { ["{"] = "key or }", ["["] = "value or ]" }
local CLOSES = {
  ["}"] = { ["key or }"] = true, [", or }"] = true },
  ["]"] = { ["value or ]"] = true, [", or ]"] = true },
}
local NAMES = {
  ["value"] = "a value", ["value or ]"] = "a value or ]", ["key or }"] = "a key in quotes or }",
  ["key"] = "a key in quotes", [":"] = "a colon", [", or }"] = "a comma or }", [", or ]"] = "a comma or ]",
  ["end"] = "the end of the file",
}

local parser = {}
parser.__index = parser

-- The state behind a complete value.
function parser:after_value()
  local open = self.stack[#self.stack]
  if not open then return "end" end
  return open == "{" and ", or }" or ", or ]"
end

-- The state after a token, or nil when it may not stand here.
function parser:next_state(kind, what)
  local state = self.state
  if kind == "sign" then
    if CLOSES[what] and CLOSES[what][state] then
      self.stack[#self.stack] = nil
      return self:after_value()
    elseif what == "," and (state == ", or }" or state == ", or ]") then
      return state == ", or }" and "key" or "value"
    elseif what == ":" and state == ":" then
      return "value"
    elseif VALUE[what] and (state == "value" or state == "value or ]") then
      self.stack[#self.stack + 1] = what
      return VALUE[what]
    end
  elseif state == "value" or state == "value or ]" then
    return kind ~= "bad" and kind ~= "kept" and self:after_value() or nil
  elseif kind == "string" and (state == "key" or state == "key or }") then
    return ":"
  end
  return nil
end

local function misplaced(from, after, kind, what, state)
  local expected = "expected " .. NAMES[state]
  if kind == "place" then
    local hint = "a value stands alone: no digits, letters or signs may touch it"
    if state == "key" or state == "key or }" then hint = ('write "{{%s}}" for a key'):format(what) end
    local message = ("{{%s}} stands where no value may stand: %s"):format(what, expected)
    return fault(from, message, after - from, hint)
  elseif kind == "kept" then
    return fault(from, "a kept mark may stand inside of a string only", after - from, "put it into quotes")
  elseif what == '"' then
    local hint = "write \\n or \\u00XX for a control character"
    return fault(from, "unfinished string, or a control character in it", 1, hint)
  end
  return fault(from, "no JSON: " .. expected, after - from)
end

function parser:string_region(from, to, is_key)
  if self.mark < from then self.mark = self.text:find("{{", from, true) or math.huge end
  if self.mark > to then return end
  local split, bad = split_string(self.text, from, to)
  if not split then
    self.faults[#self.faults + 1] = bad
    return
  end
  local region = { kind = "quoted", from = from, to = to, body_from = from + 1, body_to = to - 1, pieces = split }
  for _, piece in ipairs(split) do
    if type(piece) == "table" then region.is_key, piece.is_key = is_key, is_key end
  end
  self.regions[#self.regions + 1] = region
  local _, warnings = mark.split(self.text, from + 1, to - 1)
  table.move(warnings, 1, #warnings, #self.warnings + 1, self.warnings)
end

--- Finds the places of all marks in a JSON text.
-- @tparam string text
-- @treturn table regions: `{kind="place", name, from, to}`, `{kind="quoted", from, to, pieces, is_key}`
-- @treturn table faults (diagnoses)
-- @treturn table warnings (diagnoses)
function M.scan(text)
  local self = { text = text, regions = {}, faults = {}, warnings = {}, stack = {}, state = "value", mark = 0 }
  setmetatable(self, parser)
  local at = M.prologue(text) + 1
  local previous_end
  while true do
    local from, what, kind, after = lpeg.match(token, text, at)
    if not from then break end
    local state = self:next_state(kind, what)
    -- Neither 1{{x}} nor {{x}}1 comes here: two values in a row are refused by the grammar.
    if not state then
      self.faults[#self.faults + 1] = misplaced(from, after, kind, what, self.state)
      return self.regions, self.faults, self.warnings
    end
    if kind == "place" then
      self.regions[#self.regions + 1] = { kind = "place", name = what, from = from, to = after - 1 }
    elseif kind == "string" then
      self:string_region(from, after - 1, state == ":")
    end
    self.state, at, previous_end = state, after, after
  end
  if self.state ~= "end" then
    self.faults[#self.faults + 1] = fault(previous_end or 1, "the text ends too early: expected " .. NAMES[self.state])
  end
  return self.regions, self.faults, self.warnings
end

--- The length of a byte order mark at the beginning; JSON allows none, so it is left out of what is rendered.
-- @tparam string text
-- @treturn integer bytes
function M.prologue(text)
  return text:sub(1, 3) == "\xEF\xBB\xBF" and 3 or 0
end

return M
