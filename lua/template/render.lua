--- Compiles a text with placeholders once, and renders it many times.
-- The law: when a rendered chunk is loaded, the value that it sees equals the value given, byte for byte, and nothing
-- else happened. A place or value that would break it is an error with file, line, column and reason.
-- Knows neither files on disk nor plans. Placeholders are described in `template.mark`.
-- @module template.render
-- @usage local page = assert(render.compile('return "{{name}}"', { as = "lua", file = "main.lua" }))
-- print(page:render { name = 'a "quoted" name' })

local diagnostic = require "template.diagnostic"
local json = require "atelier.json"
local lexer_json = require "template.lexer_json"
local lexer_lua = require "template.lexer_lua"
local places = require "template.places"

local M = {}

local null <const> = json.null
local concat = table.concat

local Compiled = {}
Compiled.__index = Compiled

-- The value at a path, or nil.
local function lookup(vars, path)
  local value = vars[path[1]]
  for i = 2, #path do
    if type(value) ~= "table" or value == null then return nil end
    value = value[path[i]]
  end
  return value
end

local function complain(faults, slot, message, hint)
  faults[#faults + 1] = { pos = slot.pos, length = slot.length, message = message, hint = hint }
end

local function missing(faults, slot, as)
  local hint = as == "lua" and ("give it a value; a Lua table in a table is written { {%s} }, and {{!%s}} keeps the mark")
    or "give it a value; {{!%s}} keeps the mark"
  complain(faults, slot, ("unknown variable {{%s}}"):format(slot.name), (hint:gsub("%%s", slot.name)))
end

-- Text of one slot, or nil after a complaint.
local function fill_slot(slot, vars, as, faults)
  local value = lookup(vars, slot.path)
  if value == nil then return missing(faults, slot, as) end
  local text, reason = slot.write(value)
  if text then return text end
  return complain(faults, slot, ("{{%s}} %s"):format(slot.name, reason))
end

local function fill_group(group, vars, as, faults)
  local out, spans, at, complaints = {}, {}, 1, #faults
  for i, piece in ipairs(group.pieces) do
    local text = piece
    if type(piece) == "table" then
      text = fill_slot(piece, vars, as, faults) or ""
      spans[#spans + 1] = { slot = piece, from = at, to = at + #text - 1 }
    end
    out[i], at = text, at + #text
  end
  if #faults > complaints then return nil end
  local text, slot, reason = group.finish(concat(out), spans)
  if text then return text end
  return complain(faults, slot, ("{{%s}} %s"):format(slot.name, reason))
end

--- Puts the values into their places.
-- @tparam table vars by name
-- @treturn[1] table the parts of the text, in order; the table is this object's own and is valid until the next call
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function compiled:fill
function Compiled:fill(vars)
  local out, faults, as = self.parts, {}, self.as
  for index, slot in next, self.slots do
    out[index] = (slot.pieces and fill_group or fill_slot)(slot, vars, as, faults) or ""
  end
  if faults[1] then return nil, diagnostic.report(faults, self.source, self.file), "template" end
  if self.repeated_keys then
    local ok, message = self:accept(concat(out))
    if not ok then return nil, message, "template" end
  end
  return out
end

--- The rendered text.
-- @tparam table vars by name
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function compiled:render
function Compiled:render(vars)
  local parts, message, code = self:fill(vars)
  if not parts then return nil, message, code end
  return concat(parts)
end

--- Renders, and asks Lua or JSON itself whether it takes the result. Slower than `render`; for tools and checks.
-- @tparam table vars by name
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function compiled:check
function Compiled:check(vars)
  local text, message, code = self:render(vars)
  if not text then return nil, message, code end
  local ok, reason = self:accept(text)
  if not ok then return nil, reason, "template" end
  return text
end

-- Loads Lua in text mode, or decodes JSON. Gives true, or nil and a message with the file's name.
function Compiled:accept(text)
  if self.as == "lua" then
    local skip = lexer_lua.prologue(text)
    local chunk, message = load(text:sub(skip + 1), "=" .. self.file, "t", {})
    if not chunk then return nil, message .. " (in the rendered text)" end
  elseif self.as == "json" then
    local value, message = json.decode(text)
    if value == nil then return nil, ("%s: %s (in the rendered text)"):format(self.file, message) end
  end
  return true
end

local function new_compiled(source, options, parts, warnings)
  local self = { source = source, as = options.as, file = options.file, parts = parts, slots = {}, warnings = {}, names = {} }
  local seen = {}
  local function note(slot)
    if not seen[slot.name] then self.names[#self.names + 1] = slot.name end
    seen[slot.name] = true
    self.repeated_keys = self.repeated_keys or slot.is_key or false
  end
  for index, part in ipairs(parts) do
    if type(part) == "table" then
      self.slots[index] = part
      if part.pieces then
        for _, piece in ipairs(part.pieces) do
          if type(piece) == "table" then note(piece) end
        end
      else
        note(part)
      end
    end
  end
  table.sort(self.names)
  for i, warning in ipairs(warnings) do self.warnings[i] = diagnostic.format(warning, source, options.file) end
  --- Does the text hold any placeholder?
  self.personal = next(self.slots) ~= nil
  return setmetatable(self, Compiled)
end

-- The text with a sample in each place: distinct numbers in code, distinct words in strings. A number literal is the
-- strictest guest: it is never a call argument without parentheses, a name, or the beginning of a statement, so where
-- it is taken, any literal is.
local function sample(parts, text)
  local out, by_number, number = {}, {}, 70000000
  local function text_of(slot)
    if slot.pieces then
      local inner = {}
      for i, piece in ipairs(slot.pieces) do inner[i] = type(piece) == "table" and "x" or piece end
      return concat(inner)
    end
    repeat number = number + 1 until not text:find(tostring(number), 1, true)
    by_number[tostring(number)] = slot
    return tostring(number)
  end
  for i, part in ipairs(parts) do out[i] = type(part) == "table" and text_of(part) or part end
  return concat(out), by_number
end

local ENDS_EXPRESSION = { [")"] = true, ["]"] = true, ["}"] = true, ["..."] = true, ["end"] = true, ["nil"] = true,
  ["true"] = true, ["false"] = true }
local NAMED_NEXT = { ["function"] = "a function's name", ["local"] = "the name of a local variable", ["for"] = "a loop variable",
  ["goto"] = "a label", ["::"] = "a label" }

-- Why no value may stand at a place in code, and what to do.
local function misplaced(region)
  local before, after = region.prev or { text = "" }, region.next or { text = "" }
  local name = region.name
  if before.text == "." or before.text == ":" then
    return "a field or method name cannot be a placeholder", ("index with the value: t[{{%s}}]"):format(name)
  elseif NAMED_NEXT[before.text] then
    return NAMED_NEXT[before.text] .. " cannot be a placeholder"
  elseif before.kind == "string" or before.kind == "number" or before.kind == "place" or ENDS_EXPRESSION[before.text]
    or (before.kind == "name" and not lexer_lua.KEYWORDS[before.text]) then
    return ("{{%s}} follows an expression directly, where a value would be a second one or a call's argument"):format(name),
      ("write f({{%s}}) for a call, or an operator or a comma between them"):format(name)
  elseif after.text == "=" then
    return ("{{%s}} cannot be assigned to"):format(name), "assign to a name"
  elseif after.kind == "string" or after.text == "." or after.text == ":" or after.text == "[" or after.text == "{" then
    return ("{{%s}} cannot be indexed or called directly"):format(name), ("write ({{%s}})"):format(name)
  end
  return ("{{%s}} stands where no expression may stand"):format(name),
    ("a placeholder in code is a value; a Lua table in a table is written { {%s} }"):format(name)
end

local function part_of(region)
  local function joined(token, touches)
    if not token or not touches then return nil end
    if token.kind == "number" then return "a number" end
    if token.kind == "name" and not lexer_lua.KEYWORDS[token.text] then return "a name" end
    return nil
  end
  return joined(region.prev, region.prev and region.prev.to == region.from - 1)
    or joined(region.next, region.next and region.next.from == region.to + 1)
end

local function code_faults(regions, faults)
  for _, region in ipairs(regions) do
    local what = region.kind == "place" and part_of(region)
    if what then
      faults[#faults + 1] = { pos = region.from, length = region.to - region.from + 1,
        message = ("{{%s}} would be part of %s"):format(region.name, what),
        hint = "a placeholder in code is a whole value; join strings with .. or put it into quotes" }
    end
  end
end

-- Turns Lua's own message about the sampled text into a diagnosis of the template.
local function load_fault(message, text, regions, by_number)
  local line, reason = message:match("^template:(%d+): (.*)$")
  if not line then return { pos = 1, message = message } end
  local near = reason:match("near '(.*)'$") or ""
  local slot, from = by_number[near], diagnostic.line_start(text, tonumber(line))
  for _, region in ipairs(regions) do
    local after = region.next
    if region.kind == "place" and ((slot and slot.pos == region.from)
      or (after and after.from >= from and after.text == near and after.kind ~= "string" and near ~= "")) then
      local why, hint = misplaced(region)
      return { pos = region.from, length = region.to - region.from + 1, message = why, hint = hint or ("Lua: " .. reason) }
    end
  end
  local _, _, _, source = diagnostic.locate(text, from)
  local at = near ~= "" and source:find(near, 1, true) or source:find("%S") or 1
  return { pos = from + at - 1, length = math.max(1, #near), message = reason }
end

local function compile_lua(text, options)
  local regions, faults, warnings = lexer_lua.scan(text)
  if not faults[1] then code_faults(regions, faults) end
  if faults[1] then return nil, faults end
  local parts = places.lua(text, regions)
  local trial, by_number = sample(parts, text)
  local chunk, message = load(trial:sub(lexer_lua.prologue(trial) + 1), "=template", "t", {})
  if not chunk then return nil, { load_fault(message, text, regions, by_number) } end
  return new_compiled(text, options, parts, warnings)
end

local function compile_json(text, options)
  local regions, faults, warnings = lexer_json.scan(text)
  if faults[1] then return nil, faults end
  local skip = lexer_json.prologue(text)
  if skip > 0 then
    warnings[#warnings + 1] = { pos = 1, message = "the byte order mark is left out: JSON allows none" }
  end
  local parts = places.json(text, regions, skip)
  local value, message = json.decode((sample(parts, text)))
  if value == nil then
    local line, reason = message:match("^decode: (%d+):%d+: (.*)$")
    local from = diagnostic.line_start(text, tonumber(line or 1))
    return nil, { { pos = from, message = reason or message } }
  end
  return new_compiled(text, options, parts, warnings)
end

local function compile_text(text, options)
  local parts, warnings = places.text(text)
  return new_compiled(text, options, parts, warnings)
end

local KINDS = { lua = compile_lua, json = compile_json, text = compile_text }

--- Compiles a text.
-- @tparam string text
-- @tparam table options `as`: "lua", "json" or "text"; `file`: the name for messages
-- @treturn[1] table compiled: `personal`, `names` (of variables, sorted), `warnings` (texts), and the methods
--   `render(vars)`, `check(vars)`, `fill(vars)`
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
function M.compile(text, options)
  for key in next, options do
    if key ~= "as" and key ~= "file" then error(("compile: unknown option '%s'"):format(tostring(key)), 2) end
  end
  local compile = KINDS[options.as] or error("compile: as: \"lua\", \"json\" or \"text\" expected", 2)
  local settled = { as = options.as, file = options.file or "template" }
  local compiled, faults = compile(text, settled)
  if not compiled then return nil, diagnostic.report(faults, text, settled.file), "template" end
  return compiled
end

return M
