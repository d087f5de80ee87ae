--- A kit: all that is the same in every bundle of one template and one set of tools, made ready once.
-- Files without placeholders are deflated once; a personal file is cut into constant chunks, deflated once, and short
-- personal ones, deflated for each bundle. Same inputs, same archive bytes: names sorted, times fixed by `atelier.zip`.
-- Knows neither devices nor containers.
-- @module template.kit
-- @usage local bundle = assert(kit.new(template, { "timeline" })):build(vars)

local asset = require "template.asset"
local cache = require "template.cache"
local json = require "atelier.json"
local layout = require "template.layout"
local plans = require "plans"
local zip = require "atelier.zip"

local M = {}

--- Binary files above this many bytes are streamed from the disk for each bundle.
M.STREAM_ABOVE = 1024 * 1024
--- Binary files held in memory by one kit, all together; the rest are streamed.
M.HOLD = 16 * 1024 * 1024

local CHUNK_MIN <const> = 1024 -- a shorter constant text is cheaper to deflate again than to splice
local ONCE <const> = { level = 9 }
local ONCE_HEAD <const> = { level = 9, last = false }
local PERSONAL <const> = { level = 6, last = false }
local PERSONAL_LAST <const> = { level = 6 }
-- What is streamed is stored as it is: large files are media, compressed already, and each bundle would pay again.
local AS_IT_IS <const> = { method = "store" }
local MAX_RATIO <const> = 1000 -- beyond it `open` refuses an archive; `writer:add` then stores the bytes

local concat = table.concat

local Kit = {}
Kit.__index = Kit

-- Cuts the parts of a compiled text into chunks: `{piece}`, or `{from, to, options}` of parts to deflate each time.
local function cut(compiled)
  local chunks, count = {}, #compiled.parts
  for i, part in ipairs(compiled.parts) do
    local last = chunks[#chunks]
    if not compiled.slots[i] and #part >= CHUNK_MIN then
      chunks[#chunks + 1] = { piece = zip.deflate(part, i == count and ONCE or ONCE_HEAD) }
    elseif last and last.from then
      last.to = i
    else
      chunks[#chunks + 1] = { from = i, to = i }
    end
  end
  for i, chunk in ipairs(chunks) do
    if chunk.from then chunk.options = i == #chunks and PERSONAL_LAST or PERSONAL end
  end
  return chunks
end

local function read_asset(file)
  local handle, message = io.open(file.path, "rb")
  if not handle then return nil, message, "template" end
  local data = handle:read("a")
  handle:close()
  if data and #data == file.size then return data end
  return nil, file.file .. asset.CHANGED, "template_version"
end

-- An entry that is the same in every bundle: deflated once.
local function constant(entry, data)
  local piece = zip.deflate(data, ONCE)
  if #data > MAX_RATIO * piece:compressed_size() then entry.data = data else entry.piece = piece end
  return entry
end

local function binary_entry(self, file)
  if file.size <= M.STREAM_ABOVE and self.held + file.size <= M.HOLD then
    local data, message, code = read_asset(file)
    if not data then return nil, message, code end
    self.held = self.held + #data
    return constant({ name = file.file, file = file }, data)
  end
  self.streamed = true
  return { name = file.file, file = file, path = file.path }
end

local function text_entry(template, file)
  local compiled, message, code = template:compile(file)
  if not compiled then return nil, message, code end
  if compiled.personal then return { name = file.file, file = file, compiled = compiled, chunks = cut(compiled) } end
  local text = concat(compiled.parts)
  return constant({ name = file.file, file = file, text = text }, text)
end

-- config.json when the template brings none: all variables, the tools, and the capabilities.
local function make_config(self, vars)
  local config = { tools = json.array(self.tools_with_files), capabilities = json.array(self.capabilities) }
  for name, value in next, vars do config[name] = value end
  local text, message = json.encode(config, { indent = 2 })
  if not text then return nil, "config.json: " .. message, "template" end
  return text .. "\n"
end

local function gather(self, template)
  local included, faults = {}, {}
  for i, decision in ipairs(self.decisions) do
    if decision.included then
      local file = template.files[i]
      local entry, message
      if file.kind == "binary" then
        entry, message = binary_entry(self, file)
      else
        entry, message = text_entry(template, file)
      end
      if entry then included[#included + 1] = entry else faults[#faults + 1] = message end
      if file.file == "config.json" then self.own_config = true end
    elseif decision.required then
      faults[#faults + 1] = ("%s: required, but %s"):format(decision.file, decision.reason)
    end
  end
  if faults[1] then return nil, concat(faults, "\n"), "template" end
  if not self.own_config then included[#included + 1] = { name = "config.json", make = make_config } end
  table.sort(included, function(a, b) return a.name < b.name end)
  return included
end

--- Makes a kit.
-- @tparam table template from `template.load`
-- @tparam table tools of the plan, in any order
-- @treturn[1] table kit: `entries`; `decisions` (see `plans.select`); `tools_with_files`, `capabilities`,
--   `unknown_tools`; `streamed` (whether `build_file` is to be used)
-- @return[2] nil
-- @treturn[2] string what is wrong, one a line at least
-- @treturn[2] string "template"
function M.new(template, tools)
  local sorted = plans.sort_tools(template.file_structure, tools)
  local self = setmetatable({
    template = template, decisions = plans.select(template.file_structure, tools), streamed = false, held = 0,
    tools_with_files = sorted.with_files, capabilities = sorted.capabilities, unknown_tools = sorted.unknown,
    required = template.required_variables,
  }, Kit)
  local entries, message, code = gather(self, template)
  if not entries then return nil, message, code end
  self.entries = entries
  return self
end

local function check_required(self, vars)
  local missing = {}
  for _, name in ipairs(self.required) do
    if vars[name] == nil then missing[#missing + 1] = name end
  end
  if not missing[1] then return true end
  local message = "template %s: no value for the required variable %s"
  return nil, message:format(self.template.name, concat(missing, ", ")), "template"
end

-- The personal text of one entry, deflated: constant chunks are spliced in as they are.
local function personal_piece(entry, vars)
  local parts, message, code = entry.compiled:fill(vars)
  if not parts then return nil, message, code end
  local whole
  for _, chunk in ipairs(entry.chunks) do
    local piece = chunk.piece or zip.deflate(concat(parts, "", chunk.from, chunk.to), chunk.options)
    whole = whole and zip.splice(whole, piece) or piece
  end
  return whole
end

local function add_entry(self, writer, entry, vars)
  if entry.piece then return writer:add_deflated(entry.name, entry.piece) end
  if entry.data then return writer:add(entry.name, entry.data) end
  if entry.compiled then
    local piece, message, code = personal_piece(entry, vars)
    if not piece then return nil, message, code end
    return writer:add_deflated(entry.name, piece)
  elseif entry.make then
    local text, message, code = entry.make(self, vars)
    if not text then return nil, message, code end
    return writer:add(entry.name, text, PERSONAL_LAST)
  end
  local ok, message, code = asset.unchanged(entry)
  if not ok then return nil, message, code end
  return writer:add_file(entry.name, entry.path, AS_IT_IS)
end

local function write(self, writer, vars, without_large)
  local ok, message, code = check_required(self, vars)
  if not ok then return nil, message, code end
  for _, entry in ipairs(self.entries) do
    if not (without_large and entry.path) then
      ok, message, code = add_entry(self, writer, entry, vars)
      if not ok then return nil, message, code end
    end
  end
  return writer:close()
end

--- Builds a bundle in memory.
-- @tparam table vars values by name
-- @treturn[1] string the archive
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template", or a code of `atelier.zip`
-- @function kit:build
function Kit:build(vars)
  return write(self, zip.writer(), vars)
end

--- Whether the large files are still those that were read when the template was.
-- @return as of `template.asset.unchanged`
-- @function kit:unchanged
function Kit:unchanged()
  return asset.all_unchanged(self.entries)
end

--- Lays a bundle out, for kits that are `streamed`: what is large is only named. Ask `unchanged` when it was read.
-- @tparam table vars values by name
-- @treturn[1] table parts, see `template.layout`
-- @treturn[1] integer size
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template", or a code of `atelier.zip`
-- @function kit:layout
function Kit:layout(vars)
  local files, message, code = asset.list(self.entries)
  if not files then return nil, message, code end
  local archive
  archive, message, code = write(self, zip.writer(), vars, true)
  if not archive then return nil, message, code end
  return layout.parts(archive, files)
end

--- Builds a bundle into a file, in bounded memory: for kits that are `streamed`.
-- @tparam table vars values by name
-- @tparam string path where the archive goes
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template", or a code of `atelier.zip`
-- @function kit:build_file
function Kit:build_file(vars, path)
  local writer, message, code = zip.writer(path)
  if not writer then return nil, message, code end
  return write(self, writer, vars)
end

--- The text of an entry as it stands in a bundle.
-- @tparam table entry of `entries`, not a binary one
-- @tparam table vars
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function kit:text
function Kit:text(entry, vars)
  if entry.text then return entry.text end
  if entry.make then return entry.make(self, vars) end
  return entry.compiled:render(vars)
end

--- Renders every text and asks Lua or JSON itself whether it takes it. All faults are reported.
-- @tparam table vars
-- @treturn[1] table texts by name
-- @return[2] nil
-- @treturn[2] string diagnoses
-- @treturn[2] string "template"
-- @function kit:check
function Kit:check(vars)
  local texts, faults = {}, {}
  for _, entry in ipairs(self.entries) do
    if entry.text or entry.make or entry.compiled then
      local text, message
      if entry.compiled then text, message = entry.compiled:check(vars) else text, message = self:text(entry, vars) end
      if text then texts[entry.name] = text else faults[#faults + 1] = message end
    end
  end
  local ok, missing = check_required(self, vars)
  if not ok then faults[#faults + 1] = missing end
  if faults[1] then return nil, concat(faults, "\n"), "template" end
  return texts
end

--- Kits by template contents and tools; those unused for longest make room.
-- @tparam[opt=32] integer limit kits held
-- @treturn table cache with `cache:get(template, tools)` → kit, or nil, message, code
function M.cache(limit)
  return cache.new(limit or 32, M.new)
end

return M
