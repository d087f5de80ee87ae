--- Turns the regions that a lexer found into parts: constant texts, and slots that take a value.
-- A slot is `{name, path, pos, length, write}`, or a group (`{pieces, finish}`) where the text around a value decides
-- with it whether the value can stand there: long brackets and comments.
-- @module template.places

local lpeg = require "lpeg"
local mark = require "template.mark"
local values = require "template.values"

local M = {}

local plain <const> = values.plain

local function new_slot(place, write)
  local path = {}
  for word in place.name:gmatch("[^.]+") do path[#path + 1] = word end
  return {
    name = place.name, path = path, pos = place.pos, length = place.length, write = write, is_key = place.is_key,
  }
end

local function no_carriage_return(value)
  local text, reason = plain(value)
  if text and text:find("\r", 1, true) then
    return nil, "holds a carriage return, which Lua reads as a line feed here"
  end
  return text, reason
end

local function no_line_end(value)
  local text, reason = plain(value)
  if text and text:find("[\r\n]") then return nil, "holds a line end, which would end the line that it stands in" end
  return text, reason
end

-- The slot of a group whose text covers `from..to` of the joined text.
local function culprit(spans, from, to)
  for _, span in ipairs(spans) do
    if span.to >= from - 1 and span.from <= to + 1 then return span.slot end
  end
  return spans[#spans].slot
end

-- A long bracket must not end before its end: not inside of a value, nor where a value meets its neighbour.
local function finish_bracket(close)
  return function(joined, spans)
    local at = (joined .. close):find(close, 1, true)
    if at == #joined + 1 then return joined end
    return nil, culprit(spans, at, at + #close - 1), ("would end the long bracket early, by %s"):format(close)
  end
end

-- Lua drops a line feed directly behind the opening: one more keeps the one that came with a value.
local function finish_long(close, starts_with_value)
  local finish = finish_bracket(close)
  return function(joined, spans)
    local text, slot, reason = finish(joined, spans)
    if text and starts_with_value and text:byte() == 10 then return "\n" .. text end
    return text, slot, reason
  end
end

local function finish_comment(joined, spans)
  local opening = joined:match("^%[=*%[")
  if not opening then return joined end
  return nil, culprit(spans, 1, #opening), "would turn the comment into a long one, by " .. opening
end

local function keep(joined) return joined end

-- Every line end of a long string as LF: Lua reads each form as one, and a value next to CR would become part of it.
-- In one pass: which bytes are a pair depends on those before (LF CR LF is two line ends, and so is LF CR CR).
local line_end = lpeg.P "\r\n" + "\n\r" + lpeg.S "\r\n"
local normalised = lpeg.Cs((line_end / "\n" + 1) ^ 0)

local function normalise(text) return lpeg.match(normalised, text) end

local builder = {}
builder.__index = builder

function builder:constant(text)
  if text == "" then return end
  local last = #self.parts
  if type(self.parts[last]) == "string" then
    self.parts[last] = self.parts[last] .. text
  else
    self.parts[last + 1] = text
  end
end

function builder:slot(slot)
  self.parts[#self.parts + 1] = slot
end

-- One slot for all of a region's inside; constants alone stay constant.
function builder:group(region, write, finish)
  local pieces = {}
  for i, piece in ipairs(region.pieces) do
    pieces[i] = type(piece) == "table" and new_slot(piece, write) or piece
  end
  if not region.marked then
    self:constant(table.concat(pieces))
  else
    self:slot { pieces = pieces, finish = finish, pos = region.from }
  end
end

function builder:quoted(region, write, write_after_z)
  for _, piece in ipairs(region.pieces) do
    if type(piece) == "string" then
      self:constant(piece)
    else
      self:slot(new_slot(piece, piece.after_z and write_after_z or write))
    end
  end
end

local function code_slot(region, write)
  return new_slot({ name = region.name, pos = region.from, length = region.to - region.from + 1 }, write)
end

local function is_space(char) return char == "" or char:find("[%s({%[,;]") ~= nil end

-- With the value, not the text: the trial at compile time is without it, and so learns that a statement begins there.
-- In `{ {{x}} (1) }` the semicolon would make two fields of what is no Lua.
local function ended_expression(value)
  local text, reason = values.expression(value)
  if text then return text .. ";" end
  return nil, reason
end

-- A value in code is kept apart from its neighbours, and a value in parentheses from a "(" that begins a statement.
function builder:code(region, text)
  local before, after = text:sub(region.from - 1, region.from - 1), text:sub(region.to + 1, region.to + 1)
  if region.from > 1 and not is_space(before) then self:constant(" ") end
  local slot = code_slot(region, region.next and region.next.text == "(" and ended_expression or values.expression)
  slot.in_code = true
  self:slot(slot)
  if not is_space(after) and not after:find("[)}%]]") then self:constant(" ") end
end

local LUA = {
  place = function(self, region, text) self:code(region, text) end,
  kept = function(self, region) self:constant(region.name) end,
  quoted = function(self, region) self:quoted(region, values.quoted, values.quoted_after_z) end,
  comment = function(self, region) self:group(region, no_line_end, finish_comment) end,
  shebang = function(self, region) self:group(region, no_line_end, keep) end,
  long_comment = function(self, region) self:group(region, no_carriage_return, finish_bracket(region.close)) end,
  long = function(self, region)
    local pieces = region.pieces
    for i, piece in ipairs(pieces) do
      if type(piece) == "string" and region.marked then pieces[i] = normalise(piece) end
    end
    self:group(region, no_carriage_return, finish_long(region.close, type(pieces[1]) == "table"))
  end,
}

local JSON = {
  place = function(self, region) self:slot(code_slot(region, values.json_value)) end,
  quoted = function(self, region) self:quoted(region, region.is_key and values.json_key or values.json_string) end,
}

local function assemble(text, regions, handlers, at)
  local self = setmetatable({ parts = {} }, builder)
  for _, region in ipairs(regions) do
    local from, to = region.body_from or region.from, region.body_to or region.to
    self:constant(text:sub(at, from - 1))
    handlers[region.kind](self, region, text)
    at = to + 1
  end
  self:constant(text:sub(at))
  return self.parts
end

--- Parts of a Lua text.
-- @tparam string text
-- @tparam table regions of `template.lexer_lua`
-- @treturn table parts
function M.lua(text, regions)
  return assemble(text, regions, LUA, 1)
end

--- Parts of a JSON text.
-- @tparam string text
-- @tparam table regions of `template.lexer_json`
-- @tparam integer skip bytes at the beginning that are left out
-- @treturn table parts
function M.json(text, regions, skip)
  return assemble(text, regions, JSON, skip + 1)
end

--- Parts of any other text.
-- @tparam string text
-- @treturn table parts
-- @treturn table warnings
function M.text(text)
  local self = setmetatable({ parts = {} }, builder)
  local pieces, warnings = mark.split(text)
  for _, piece in ipairs(pieces) do
    if type(piece) == "string" then self:constant(piece) else self:slot(new_slot(piece, plain)) end
  end
  return self.parts, warnings
end

return M
