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
local trial = require "template.trial"

local M = {}

local null <const> = json.null
local concat = table.concat
local DEEP <const> = { max_depth = 1000 } -- of a template and its values: 200 and values.JSON_DEPTH

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
  local hint = as == "lua" and "give it a value; a Lua table in a table is written { {%s} }, and {{!%s}} keeps the mark"
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

-- Fills again, slowly: every complaint is wanted, not the first alone.
local function diagnose(self, vars)
  local faults = {}
  for _, slot in ipairs(self.ordered) do
    (slot.pieces and fill_group or fill_slot)(slot, vars, self.as, faults)
  end
  return nil, diagnostic.report(faults, self.source, self.file), "template"
end

-- Values can make two keys of a JSON object the same; nothing else can spoil a text that was taken at compile time.
local function same_keys(self)
  local faults = {}
  for _, slot in ipairs(self.keys) do
    complain(faults, slot, ("{{%s}} stands in a key that is not the only one of its name then"):format(slot.name))
  end
  return nil, diagnostic.report(faults, self.source, self.file), "template"
end

-- Lua takes neither the template's nesting nor its registers with those of these tables on top.
local function no_room(self, vars)
  local faults, tables = {}, false
  for _, slot in ipairs(self.ordered) do
    tables = tables or slot.in_code and type(lookup(vars, slot.path)) == "table"
  end
  for _, slot in ipairs(self.ordered) do
    if slot.in_code and (not tables or type(lookup(vars, slot.path)) == "table") then
      complain(faults, slot, ("{{%s}} is too large or nested too deeply for this place"):format(slot.name),
        "assign it to a local variable of its own, in a statement that is not nested itself")
    end
  end
  return nil, diagnostic.report(faults, self.source, self.file), "template"
end

--- Puts the values into their places.
-- @tparam table vars by name
-- @treturn[1] table the parts of the text, in order; the table is this object's own and is valid until the next call
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function compiled:fill
function Compiled:fill(vars)
  local out, at, ordered = self.parts, self.at, self.ordered
  for i = 1, #ordered do
    local slot = ordered[i]
    local text
    if slot.pieces then
      text = fill_group(slot, vars, self.as, {})
    else
      local path = slot.path
      local value = vars[path[1]]
      if path[2] then value = lookup(vars, path) end
      text = slot.write(value)
    end
    if not text then return diagnose(self, vars) end
    out[at[i]] = text
  end
  if self.keys[1] and not json.decode(concat(out), DEEP) then return same_keys(self) end
  if self.tight and not self:accept(concat(out)) then return no_room(self, vars) end
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
    local chunk, message = trial.parse(text:sub(skip + 1), "=" .. self.file)
    if not chunk then
      message = message:match("^[^\n]*")
      if message:sub(1, #self.file) ~= self.file then message = self.file .. ": " .. message end
      return nil, message .. " (in the rendered text)"
    end
  elseif self.as == "json" then
    local value, message = json.decode(text, DEEP)
    if value == nil then return nil, ("%s: %s (in the rendered text)"):format(self.file, message) end
  end
  return true
end

-- Calls `visit` for every placeholder.
local function each_place(slots, visit)
  for _, slot in ipairs(slots) do
    for _, piece in ipairs(slot.pieces or { slot }) do
      if type(piece) == "table" then visit(piece) end
    end
  end
end

local function new_compiled(source, options, parts, warnings)
  local self = {
    source = source, as = options.as, file = options.file, parts = parts,
    ordered = {}, at = {}, slots = {}, warnings = {}, names = {}, keys = {},
  }
  for index, part in ipairs(parts) do
    if type(part) == "table" then
      self.ordered[#self.ordered + 1], self.at[#self.at + 1], self.slots[index] = part, index, part
    end
  end
  local seen = {}
  each_place(self.ordered, function(place)
    if not seen[place.name] then self.names[#self.names + 1] = place.name end
    seen[place.name] = true
    if place.is_key then self.keys[#self.keys + 1] = place end
  end)
  table.sort(self.names)
  for i = 1, math.min(#warnings, 20) do self.warnings[i] = diagnostic.format(warnings[i], source, options.file) end
  self.personal = self.ordered[1] ~= nil
  return setmetatable(self, Compiled)
end

local function compile_lua(text, options)
  local regions, faults, warnings = lexer_lua.scan(text)
  if not faults[1] then trial.touching(regions, faults) end
  if faults[1] then return nil, faults end
  local parts = places.lua(text, regions)
  local sampled, by_number = trial.sample(parts, text)
  local refusal = trial.load(sampled, by_number, text, regions)
  if refusal then return nil, { refusal } end
  local compiled = new_compiled(text, options, parts, warnings)
  compiled.tight = not trial.has_room(parts)
  return compiled
end

local function compile_json(text, options)
  local regions, faults, warnings = lexer_json.scan(text)
  if faults[1] then return nil, faults end
  local skip = lexer_json.prologue(text)
  if skip > 0 then
    warnings[#warnings + 1] = { pos = 1, message = "the byte order mark is left out: JSON allows none" }
  end
  local parts = places.json(text, regions, skip)
  local value, message = json.decode((trial.sample(parts, text)))
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
