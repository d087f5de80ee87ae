--- A second lexer of Lua 5.4, character by character, written from the manual: the judge of the renderer.
-- `tokens(text)` reads Lua; with `value`, a function of a mark's name, it reads a template and puts values where the
-- marks stand in strings. Shares nothing with lua/template but the law.
local M = {}

local SIMPLE = { a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v", ["\\"] = "\\", ['"'] = '"', ["'"] = "'" }
local LONG_OPS = { "...", "..", "==", "~=", "<=", ">=", "<<", ">>", "//", "::" }
local NAME <const> = "[%a_][%w_]*"

local function lex_error(reason) error({ reason = reason }, 0) end

-- A mark at a position: its end, its name if it is a place, else the text that is kept.
local function mark_at(text, at)
  if text:sub(at, at + 1) ~= "{{" then return nil end
  local bangs, name, stop = text:match("^{{(!*)([%a_][%w_.]*)}}()", at)
  if not name or name:find("..", 1, true) or name:sub(-1) == "." or name:find("%.%d") then return nil end
  if bangs == "" then return stop, name end
  return stop, nil, "{{" .. bangs:sub(2) .. name .. "}}"
end

local reader = {}
reader.__index = reader

-- Steps over one line end, which may be two bytes.
function reader:line_end()
  local first, second = self.text:byte(self.at, self.at + 1)
  self.at = self.at + 1
  if (second == 10 or second == 13) and second ~= first then self.at = self.at + 1 end
  self.line = self.line + 1
end

-- The value of a mark in a string, or nil when there is none here.
function reader:mark()
  if not self.value then return nil end
  local stop, name, kept = mark_at(self.text, self.at)
  if not stop then return nil end
  self.at = stop
  if kept then return kept end
  self.marked = true
  return self.value(name)
end

function reader:escape()
  local text, at = self.text, self.at
  local char = text:sub(at + 1, at + 1)
  if SIMPLE[char] then
    self.at = at + 2
    return SIMPLE[char]
  elseif char == "\n" or char == "\r" then
    self.at = at + 1
    self:line_end()
    return "\n"
  elseif char == "z" then
    self.at = at + 2
    while self.text:find("^[ \t\v\f\r\n]", self.at) do
      if self.text:find("^[\r\n]", self.at) then self:line_end() else self.at = self.at + 1 end
    end
    return ""
  end
  local hex, stop = text:match("^x(%x%x)()", at + 1)
  if not hex then hex, stop = text:match("^u{(%x+)}()", at + 1) end
  if hex then
    if #hex:gsub("^0+", "") > 8 or tonumber(hex, 16) >= 2 ^ 31 then lex_error "code point" end
    self.at = stop
    return char == "x" and string.char(tonumber(hex, 16)) or utf8.char(tonumber(hex, 16))
  end
  local digits = text:match("^%d%d?%d?", at + 1)
  if not digits or tonumber(digits) > 255 then lex_error "escape" end
  self.at = at + 1 + #digits
  return string.char(tonumber(digits))
end

function reader:quoted()
  local quote, out = self.text:sub(self.at, self.at), {}
  self.at = self.at + 1
  while true do
    local char = self.text:sub(self.at, self.at)
    if char == "" or char == "\n" or char == "\r" then lex_error "unfinished string" end
    if char == quote then break end
    local piece = self:mark()
    if not piece and char == "\\" then piece = self:escape() end
    if not piece then
      piece = char
      self.at = self.at + 1
    end
    out[#out + 1] = piece
  end
  self.at = self.at + 1
  return table.concat(out)
end

-- A long bracket at the position, its content; nil when there is none.
function reader:long()
  local equals, start = self.text:match("^%[(=*)%[()", self.at)
  if not equals then return nil end
  local close, out = "]" .. equals .. "]", {}
  self.at = start
  if self.text:find("^[\r\n]", start) then self:line_end() end
  while self.text:sub(self.at, self.at + #close - 1) ~= close do
    if self.at > #self.text then lex_error "unfinished long bracket" end
    local piece = self:mark()
    if not piece and self.text:find("^[\r\n]", self.at) then
      self:line_end()
      piece = "\n"
    elseif not piece then
      piece = self.text:sub(self.at, self.at)
      self.at = self.at + 1
    end
    out[#out + 1] = piece
  end
  self.at = self.at + #close
  return table.concat(out)
end

function reader:number()
  local text, from = self.text, self.at
  local exponent, at = "^[eE][+-]?", from
  if text:find("^0[xX]", from) then exponent, at = "^[pP][+-]?", from + 2 end
  while true do
    local _, stop = text:find(exponent, at)
    if not stop then _, stop = text:find("^[%x.]", at) end
    if not stop then break end
    at = stop + 1
  end
  if text:find("^[%a_]", at) then lex_error "number" end
  local word = text:sub(from, at - 1)
  if not tonumber(word) then lex_error "number" end
  self.at = at
  return word
end

function reader:space()
  while true do
    local char = self.text:sub(self.at, self.at)
    if char == "\n" or char == "\r" then
      self:line_end()
    elseif char ~= "" and (" \t\v\f"):find(char, 1, true) then
      self.at = self.at + 1
    elseif self.text:sub(self.at, self.at + 1) == "--" then
      self.at = self.at + 2
      if not self:long() then self.at = self.text:find("[\r\n]", self.at) or #self.text + 1 end
    else
      return
    end
  end
end

function reader:operator()
  for _, op in ipairs(LONG_OPS) do
    if self.text:sub(self.at, self.at + #op - 1) == op then
      self.at = self.at + #op
      return op
    end
  end
  if self.text:find("^%[=", self.at) then lex_error "long bracket" end
  self.at = self.at + 1
  return self.text:sub(self.at - 1, self.at - 1)
end

function reader:token()
  local text, at = self.text, self.at
  local stop, name, kept
  if self.value then stop, name, kept = mark_at(text, at) end
  if name then
    self.at, self.marked = stop, true
    return "place", name
  elseif kept then
    self.text = text:sub(1, at - 1) .. kept .. text:sub(stop) -- read as Lua from its second byte on
    return "op", self:operator()
  elseif text:find("^[%a_]", at) then
    local word = text:match("^" .. NAME, at)
    self.at = at + #word
    return "name", word
  elseif text:find("^%.?%d", at) then
    return "number", self:number()
  elseif text:find("^[\"']", at) then
    return "string", self:quoted()
  end
  local long = self:long()
  if long then return "string", long end
  return "op", self:operator()
end

--- Tokens `{kind, value, line = where it ends}`.
-- @tparam string text without byte order mark and shebang
-- @tparam ?function value of a mark's name: a string; reads a template when given
-- @treturn[1] table list
-- @treturn[1] boolean whether the template has marks outside of comments
-- @return[2] nil
-- @treturn[2] string reason
function M.tokens(text, value)
  local self = setmetatable({ text = text, at = 1, line = 1, value = value, marked = false }, reader)
  local list = {}
  local ok, fault = pcall(function()
    self:space()
    while self.at <= #self.text do
      local kind, word = self:token()
      list[#list + 1] = { kind, word, line = self.line }
      self:space()
    end
  end)
  if ok then return list, self.marked end
  if type(fault) ~= "table" then error(fault, 0) end
  return nil, fault.reason
end

--- Lua text of tokens, each on its line.
function M.join(list)
  local out, line = {}, 1
  for _, token in ipairs(list) do
    if token.line > line then
      out[#out + 1] = ("\n"):rep(token.line - line)
      line = token.line
    end
    local word = token[2]
    if token[1] == "string" then
      word = '"' .. word:gsub('[%c"\\\127-\255]', function(char) return ("\\%03d"):format(char:byte()) end) .. '"'
    end
    out[#out + 1] = word
    out[#out + 1] = " "
  end
  return table.concat(out)
end

return M
