--- A template: a folder `NAME.at/` with a manifest and the files that it names, read and checked as a whole.
-- Text files are held in memory, binary ones only described: they are streamed when a bundle is made.
-- Knows the disk and the manifest; neither plans nor bundles.
-- @module template

local crypto = require "atelier.crypto"
local dirent = require "posix.dirent"
local diagnostic = require "template.diagnostic"
local errno = require "posix.errno"
local manifest = require "template.manifest"
local render = require "template.render"
local stat = require "posix.sys.stat"

local M = {}

--- Bytes that a text file may have; binary files may have any size.
M.MAX_TEXT = 16 * 1024 * 1024

local MAX_MANIFEST = 1024 * 1024
local MAX_FOUND = 20000

local Template = {}
Template.__index = Template

local CODES = {}
for _, name in ipairs { "ENOENT", "EACCES", "ENOTDIR", "ELOOP", "EIO", "EMFILE", "ENAMETOOLONG" } do
  CODES[errno[name]] = name
end

-- A file or folder inside of the template, none of whose parents is a link: nothing outside can be reached.
local function lstat_within(root, name)
  local path = root
  for part in name:gmatch("[^/]+") do
    path = path .. "/" .. part
    local info, message, number = stat.lstat(path)
    if not info then
      local reason = number == errno.ENOENT and "missing" or errno.errno(number) or message
      return nil, reason, CODES[number] or "template"
    end
    if stat.S_ISLNK(info.st_mode) ~= 0 then
      return nil, "a symbolic link: a template holds plain files only", "template"
    end
    if path ~= root .. "/" .. name and stat.S_ISDIR(info.st_mode) == 0 then return nil, "missing", "ENOTDIR" end
  end
  return stat.lstat(path)
end

local function regular(root, name)
  local info, reason, code = lstat_within(root, name)
  if not info then return nil, reason, code end
  if stat.S_ISREG(info.st_mode) ~= 0 then return info end
  local kind = stat.S_ISDIR(info.st_mode) ~= 0 and "a folder" or stat.S_ISFIFO(info.st_mode) ~= 0 and "a pipe"
    or stat.S_ISSOCK(info.st_mode) ~= 0 and "a socket" or "a device"
  return nil, kind .. ", not a regular file", "template"
end

local function read_whole(path, limit)
  local file, message, number = io.open(path, "rb")
  if not file then return nil, errno.errno(number) or message, CODES[number] or "template" end
  local text, why = file:read(limit + 1)
  file:close()
  if not text and why then return nil, why, "template" end
  if text and #text > limit then return nil, ("larger than %d bytes"):format(limit), "template" end
  return text or ""
end

local function read_text(path, name)
  local text, reason, code = read_whole(path, M.MAX_TEXT)
  if not text then return nil, name .. ": " .. reason, code end
  local _, bad = utf8.len(text)
  if bad then
    local fault = { pos = bad, message = "not UTF-8", hint = "save the file as UTF-8" }
    return nil, diagnostic.format(fault, text, name), "template"
  end
  return text
end

-- One file as listed; nil, message, code when it is not what the manifest says.
local function load_file(root, entry)
  local path = root .. "/" .. entry.file
  local info, reason, code = regular(root, entry.file)
  if not info then return nil, entry.file .. ": " .. reason, code end
  local file = {
    file = entry.file, kind = entry.type, required = entry.required == true, tool = entry.tool, path = path,
    size = info.st_size, mtime = info.st_mtime, ctime = info.st_ctime, inode = info.st_ino,
  }
  if entry.type == "binary" then
    local digest, message, why = crypto.sha256_file(path)
    if not digest then return nil, ("%s: %s"):format(entry.file, message), why end
    file.sha256 = digest
  else
    local text
    text, reason, code = read_text(path, entry.file)
    if not text then return nil, reason, code end
    file.text, file.size, file.sha256 = text, #text, crypto.sha256(text)
  end
  return file
end

-- Files of the folder that the manifest does not name. `spec/` holds an operator's tests; hidden files are no one's.
local function stray_files(root, listed)
  local strays, found = {}, 0
  local function walk(folder, prefix)
    local names = dirent.dir(folder) or {}
    table.sort(names)
    for _, name in ipairs(names) do
      local whole = prefix .. name
      if name:sub(1, 1) ~= "." and whole ~= "spec" and found < MAX_FOUND then
        found = found + 1
        local info = stat.lstat(folder .. "/" .. name)
        if info and stat.S_ISDIR(info.st_mode) ~= 0 then
          walk(folder .. "/" .. name, whole .. "/")
        elseif not listed[whole] then
          strays[#strays + 1] = whole
        end
      end
    end
  end
  walk(root, "")
  return strays
end

-- SHA-256 over the sorted names and contents, the manifest among them.
local function content_hash(files, manifest_text)
  local sums = { ["template.json"] = crypto.sha256(manifest_text) }
  local names = { "template.json" }
  for _, file in ipairs(files) do
    names[#names + 1] = file.file
    sums[file.file] = file.sha256
  end
  table.sort(names)
  local hash = crypto.hash()
  for _, name in ipairs(names) do hash:update(string.pack(">s4", name), sums[name]) end
  return crypto.hex(hash:digest())
end

local function read_manifest(root)
  local info, reason, code = regular(root, "template.json")
  if not info then return nil, "template.json: " .. reason, code end
  local text
  text, reason, code = read_whole(root .. "/template.json", MAX_MANIFEST)
  if not text then return nil, "template.json: " .. reason, code end
  local head, message, why = manifest.read(text)
  if not head then return nil, message, why end
  return head, text
end

--- Reads a template.
-- @tparam string dir its folder
-- @treturn[1] table the manifest's fields, and: `files`, a list of `{file, kind, required, tool, path, size, sha256,
--   text}` (`text` unless binary); `hash`, 64 hex digits over all contents; `strays` and `warnings`
-- @return[2] nil
-- @treturn[2] string what is wrong with every file, one a line at least
-- @treturn[2] string "template", or the errno's symbol when the first trouble is the disk's
function M.load(dir)
  local root = dir:gsub("/+$", "")
  local info, message, number = stat.stat(dir)
  if not info then
    return nil, ("template: %s: %s"):format(dir, errno.errno(number) or message), CODES[number] or "template"
  end
  if stat.S_ISDIR(info.st_mode) == 0 then return nil, ("template: %s: not a folder"):format(dir), "ENOTDIR" end
  local head, text, code = read_manifest(root)
  if not head then return nil, ("template: %s: %s"):format(dir, text), code end
  -- Hosts find a template by its name: under another one it would be published, queued, and never built.
  local named = root:match("([^/]*)%.at$")
  if named and named ~= head.name then
    message = "template: %s: template.json: name: %q, but the folder says %q"
    return nil, message:format(dir, head.name, named), "template"
  end
  local self = setmetatable(head, Template)
  self.dir, self.files, self.warnings, self.compiled = root, {}, {}, {}
  local faults, first_code, listed = {}, nil, { ["template.json"] = true }
  for _, entry in ipairs(head.file_structure) do
    local file, reason, why = load_file(root, entry)
    if not file then
      faults[#faults + 1], first_code = reason, first_code or why
    end
    self.files[#self.files + 1] = file
    listed[entry.file] = true
  end
  if faults[1] then return nil, ("template: %s: %s"):format(dir, table.concat(faults, "\n")), first_code end
  self.strays = stray_files(root, listed)
  for i, name in ipairs(self.strays) do
    self.warnings[i] = ("%s: a stray file: the manifest does not list it"):format(name)
  end
  self.hash = content_hash(self.files, text)
  return self
end

--- Compiles a file of this template, once.
-- @tparam table file of `files`, not a binary one
-- @treturn[1] table compiled (see `template.render`)
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template"
-- @function template:compile
function Template:compile(file)
  local known = self.compiled[file.file]
  if known then return known end
  local compiled, message, code = render.compile(file.text, { as = file.kind, file = file.file })
  if not compiled then return nil, message, code end
  self.compiled[file.file] = compiled
  return compiled
end

--- Compiles every text file and reports every fault at once.
-- @treturn[1] boolean true
-- @treturn[1] table warnings of all files
-- @return[2] nil
-- @treturn[2] string diagnoses
-- @treturn[2] string "template"
-- @function template:compile_all
function Template:compile_all()
  local faults, warnings = {}, table.move(self.warnings, 1, #self.warnings, 1, {})
  for _, file in ipairs(self.files) do
    if file.kind ~= "binary" then
      local compiled, message = self:compile(file)
      if compiled then
        table.move(compiled.warnings, 1, #compiled.warnings, #warnings + 1, warnings)
      else
        faults[#faults + 1] = message
      end
    end
  end
  if faults[1] then return nil, table.concat(faults, "\n"), "template" end
  return true, warnings
end

M.compile = render.compile

return M
