--- Renders a template's personal files with hostile values, and sees whether one of them becomes code.
-- Each value stands in the place of every text at once. A refusal with a diagnosis is right: nothing wrong is made. A
-- rendering must be taken by Lua or JSON, and must have the skeleton that the sample's rendering has.
-- @module template.rehearsal

local clock = require "clock"
local fault = require "template.fault"
local json = require "atelier.json"
local nasty = require "template.nasty"
local sample = require "template.sample"
local tokens = require "template.tokens"

local M = {}

--- Seconds that a rehearsal may take before it leaves the rest of the values out: files of megabytes need them.
M.SECONDS = 2

local MOST_FAULTS <const> = 5 -- of one file: more would say the same

-- Structure of a JSON value, with its scalars left out.
local function shape(value)
  if type(value) ~= "table" or value == json.null then return "." end
  local out = {}
  for _, item in ipairs(value) do out[#out + 1] = shape(item) end
  if json.is_array(value) then return "[" .. table.concat(out, ",") .. "]" end
  for key, item in next, value do out[#out + 1] = ("%q"):format(key) .. ":" .. shape(item) end
  table.sort(out)
  return "{" .. table.concat(out, ",") .. "}"
end

local SHAPES = {
  lua = tokens.skeleton,
  json = function(text)
    local value = json.decode(text)
    return value ~= nil and shape(value) or "?"
  end,
}

local function shape_of(compiled, text)
  local read = SHAPES[compiled.as]
  return read and read(text) or ""
end

-- The place at which a value that is good UTF-8 was refused: an author should know that such a place is choosy.
local function note_refusal(self, case, message)
  self.refused = self.refused + 1
  if not utf8.len(case.value) then return end
  for _, refusal in ipairs(fault.parse(message)) do
    local key = ("%s:%s:%s"):format(refusal.file, refusal.line, refusal.column)
    local known = self.choosy[key]
    if not known then
      known = refusal
      known.count, self.choosy[key] = 0, known
      self.places[#self.places + 1] = known
    end
    known.count = known.count + 1
  end
end

local function complain(self, file, case, message)
  self.complaints[file] = (self.complaints[file] or 0) + 1
  if self.complaints[file] > MOST_FAULTS then return end
  self.faults[#self.faults + 1] = { file = file, message = ("hostile value, %s: %s"):format(case.name, message) }
end

-- One value in one file. Gives whether it could be rendered.
local function try(self, file, case, vars)
  local text, message = file.compiled:render(vars)
  if not text then
    note_refusal(self, case, message)
    return false
  end
  local ok, reason = file.compiled:accept(text)
  if not ok then
    complain(self, file.name, case, reason)
  elseif shape_of(file.compiled, text) ~= file.shape then
    complain(self, file.name, case, "the value has become part of the code around it")
  end
  return true
end

-- Files with placeholders, and what they look like with ordinary values.
local function personal_files(template, vars)
  local files = {}
  for _, file in ipairs(template.files) do
    local compiled = template.compiled[file.file]
    local text = compiled and compiled.personal and compiled:render(vars)
    if text then files[#files + 1] = { name = file.file, compiled = compiled, shape = shape_of(compiled, text) } end
  end
  return files
end

local function choosy_warnings(self, tried)
  local warnings = {}
  for _, place in ipairs(self.places) do
    warnings[#warnings + 1] = { file = place.file, line = place.line, column = place.column, excerpt = place.excerpt,
      message = ("%s (%d of %d hostile texts are refused here)"):format(place.message, place.count, tried),
      hint = "put the placeholder into quotes, where every text can stand" }
  end
  return warnings
end

-- Values that no place may take: the renderer must say so.
local function try_impossible(self, files, vars)
  for _, path in ipairs(self.params) do
    for _, case in ipairs(nasty.impossible) do
      local bad = sample.with_field(vars, path, case.value)
      for _, file in ipairs(files) do
        local named = table.concat(path, ".")
        local used = false
        for _, name in ipairs(file.compiled.names) do used = used or name == named end
        if used and file.compiled:render(bad) then
          complain(self, file.name, case, "rendered, though nothing can carry it")
        end
      end
    end
  end
end

--- Rehearses.
-- @tparam table template its files compiled
-- @tparam table vars sample values that render
-- @tparam[opt=SECONDS] number seconds
-- @treturn table `{values, left_out, rendered, refused, faults, warnings}`: counts over all files; `values` are those
--   that were tried, each once, `left_out` those for which there was no time
function M.run(template, vars, seconds)
  local deadline, tried = clock.now() + (seconds or M.SECONDS), 0
  local self = { faults = {}, refused = 0, choosy = {}, places = {}, complaints = {} }
  self.params = sample.params(template)
  local files, rendered = personal_files(template, vars), 0
  for _, case in ipairs(nasty.strings) do
    if clock.now() > deadline then break end
    local hostile = sample.with_text(vars, case.value)
    tried = tried + 1
    for _, file in ipairs(files) do
      if try(self, file, case, hostile) then rendered = rendered + 1 end
    end
  end
  try_impossible(self, files, vars)
  return { values = tried, left_out = #nasty.strings - tried, rendered = rendered, refused = self.refused,
    faults = self.faults, warnings = choosy_warnings(self, tried) }
end

return M
