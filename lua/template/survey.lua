--- Looks a template's folder over and tells everything that is wrong with it at once: the manifest, each file that it
-- names, each file that it does not name, each text that does not compile. `template.load` stops where going on makes
-- no sense for a bundle; here a fault of one file hides none of another's.
-- Knows the disk and the manifest; neither plans nor the jail.
-- @module template.survey

local dirent = require "posix.dirent"
local fault = require "template.fault"
local json = require "atelier.json"
local manifest = require "template.manifest"
local render = require "template.render"
local stat = require "posix.sys.stat"
local template = require "template"

local M = {}

local MANIFEST <const> = "template.json"
local MOST_STRAYS <const> = 20000

local function read(path, limit)
  local info = stat.stat(path) -- a pipe or a device would never end
  if not info or stat.S_ISREG(info.st_mode) == 0 or info.st_size > limit then return nil end
  local file = io.open(path, "rb")
  local text = file and file:read("a")
  if file then file:close() end
  return text
end

-- Entries of a manifest that is refused as a whole: what can be looked at all the same.
local function entries_of(text)
  local object = json.decode(text)
  local list = type(object) == "table" and object.file_structure
  local entries = {}
  for _, entry in ipairs(type(list) == "table" and json.is_array(list) and list or {}) do
    local name = type(entry) == "table" and entry.file
    if type(name) == "string" and manifest.check_name(name) and name ~= MANIFEST then entries[#entries + 1] = entry end
  end
  return entries
end

local function kind_of(mode)
  return stat.S_ISLNK(mode) ~= 0 and "a symbolic link" or stat.S_ISDIR(mode) ~= 0 and "a folder"
    or stat.S_ISFIFO(mode) ~= 0 and "a pipe" or stat.S_ISSOCK(mode) ~= 0 and "a socket" or "a device"
end

-- One file, when the loader has not come as far. A file that it has complained of is passed over.
local function look(root, entry)
  local path = root .. "/" .. entry.file
  local info = stat.lstat(path)
  if not info then return { { file = entry.file, message = "missing" } } end
  if stat.S_ISREG(info.st_mode) == 0 then
    return { { file = entry.file, message = kind_of(info.st_mode) .. ", not a regular file" } }
  end
  local kind = entry.type
  if kind ~= "lua" and kind ~= "json" and kind ~= "text" then return {} end
  local text = read(path, template.MAX_TEXT)
  if not text then return {} end
  local compiled, message = render.compile(text, { as = kind, file = entry.file })
  return compiled and {} or fault.parse(message)
end

-- Every regular file, folder, pipe and whatever else that no entry names. `spec/` holds the template's own specs.
local function strays(root, listed)
  local found, count = {}, 0
  local function walk(folder, prefix)
    local ok, names = pcall(dirent.dir, folder)
    if not ok then
      found[#found + 1] = { file = prefix == "" and "." or prefix, message = "cannot be listed: " .. tostring(names) }
      return
    end
    table.sort(names)
    for _, name in ipairs(names) do
      local whole = prefix .. name
      if name:sub(1, 1) ~= "." and whole ~= "spec" and count < MOST_STRAYS then
        count = count + 1
        local info = stat.lstat(folder .. "/" .. name)
        if info and stat.S_ISDIR(info.st_mode) ~= 0 and not listed[whole] then
          walk(folder .. "/" .. name, whole .. "/")
        elseif not listed[whole] then
          found[#found + 1] = { file = whole, message = "a stray file: the manifest does not list it",
            hint = "list it in file_structure, or move it out of the template" }
        end
      end
    end
  end
  walk(root, "")
  return found
end

local function compile_all(loaded, add)
  local warnings = {}
  for _, file in ipairs(loaded.files) do
    if file.kind ~= "binary" then
      local compiled, message = loaded:compile(file)
      if not compiled then
        add(fault.parse(message))
      else
        for _, warning in ipairs(compiled.warnings) do warnings[#warnings + 1] = fault.parse(warning)[1] end
      end
    end
  end
  return warnings
end

-- The loader has refused: its complaints, and a look at all that it has not complained of.
local function look_further(root, text, message, faults)
  local parsed = fault.parse(message, ("template: %s: "):format(root))
  if text then fault.locate(parsed, text) end
  if not text and not (parsed[1] and parsed[1].file) then
    parsed = { { message = root .. ": " .. parsed[1].message } }
  end
  local known = { [MANIFEST] = true }
  for _, f in ipairs(parsed) do
    known[f.file or ""] = known[f.file or ""] or f.file ~= nil
  end
  faults:add(parsed)
  local listed, entries = { [MANIFEST] = true }, entries_of(text or "")
  for _, entry in ipairs(entries) do
    if not known[entry.file] and not listed[entry.file] then faults:add(look(root, entry)) end
    listed[entry.file] = true
  end
  if entries[1] then faults:add(strays(root, listed)) end -- a list that cannot be read would make strays of all files
end

--- Looks a folder over.
-- @tparam string dir
-- @treturn table `{template?, text?, faults, warnings}`: the template as `template.load` gives it, or nil when it does
--   not; the manifest's text; lists of faults as `template.fault` has them
function M.run(dir)
  local root = #dir > 1 and dir:gsub("/+$", "") or dir
  local faults = fault.set()
  local loaded, message = template.load(root)
  local text = read(root .. "/" .. MANIFEST, 1024 * 1024)
  if not loaded then
    look_further(root, text, message, faults)
    return { text = text, faults = faults:list(), warnings = {} }
  end
  local warnings = compile_all(loaded, function(found) faults:add(found) end)
  local listed = { [MANIFEST] = true }
  for _, entry in ipairs(loaded.file_structure) do listed[entry.file] = true end
  faults:add(strays(root, listed))
  return { template = loaded, text = text, faults = faults:list(), warnings = warnings }
end

return M
