--- What is done with an archive once it is trusted: list it, read all of it, write it into a folder.
-- Owns the folder until it is complete: nothing is left behind on failure. Must not know seals or keys.
local dirent = require "posix.dirent"
local files = require "ate.files"
local interrupt = require "ate.interrupt"
local json = require "atelier.json"
local stat = require "posix.sys.stat"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"

local M = {}

--- Names and sizes of the entries.
-- @param reader an open `atelier.zip` reader
-- @treturn table list of `{name, size}`
function M.entries(reader)
  local entries = json.array {}
  for i, entry in ipairs(reader:entries()) do entries[i] = { name = entry.name, size = entry.size } end
  return entries
end

--- Reads every entry to its end, so that what is opened is known to be readable.
-- @param reader
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code
function M.check(reader)
  local sink <close> = assert(io.open("/dev/null", "wb"))
  for _, entry in ipairs(reader:entries()) do
    local count, reason, code = reader:extract(entry.name, sink)
    if not count then return nil, reason, code end
  end
  return true
end

-- ==== one folder being filled ====

local function list(folder)
  local names = {}
  for name in dirent.files(folder) do
    if name ~= "." and name ~= ".." then names[#names + 1] = name end
  end
  return names
end

-- A private folder in which the archive is unpacked first: beside a new folder, within an empty one that is there
-- already (it may be a mount point or not ours to rename).
local function new_stage(folder)
  local info = stat.stat(folder)
  local place
  if not info and not stat.lstat(folder) then
    place = files.parent(folder)
  elseif not info or stat.S_ISDIR(info.st_mode) == 0 or #list(folder) > 0 then
    return nil, folder .. " is not a new or empty folder", "bad_archive"
  else
    place = folder
  end
  local path, message, number = stdlib.mkdtemp(place .. "/.atelier-XXXXXX")
  if not path then
    local _, reason, code = files.failure(path, message, number)
    return nil, ("%s: %s"):format(folder, reason), code
  end
  return { path = path, target = folder, inside = info ~= nil, files = {}, folders = {}, seen = {} }
end

-- Deepest first; what is gone already does no harm.
local function discard(stage)
  for _, path in ipairs(stage.files) do unistd.unlink(path) end
  for i = #stage.folders, 1, -1 do unistd.rmdir(stage.folders[i]) end
  unistd.rmdir(stage.path)
end

local function make_folders(stage, name)
  for at in name:gmatch("()/") do
    local path = stage.path .. "/" .. name:sub(1, at - 1)
    if not stage.seen[path] then
      local ok, message, number = stat.mkdir(path, 448)
      if not ok then return files.failure(ok, message, number) end
      stage.seen[path] = true
      stage.folders[#stage.folders + 1] = path
    end
  end
  return true
end

local function write_entry(stage, reader, name)
  local ok, reason, code = make_folders(stage, name)
  if not ok then return nil, reason, code end
  local path = stage.path .. "/" .. name
  local file <close>, message, symbol = files.create(path)
  if not file then return nil, message, symbol end
  stage.files[#stage.files + 1] = path
  ok, reason, code = reader:extract(name, file)
  if not ok then return nil, reason, code end
  return files.sync(file)
end

local function fill(stage, reader, stopped)
  for _, entry in ipairs(reader:entries()) do
    if stopped() then return nil, "interrupted", "interrupted" end
    local ok, reason, code = write_entry(stage, reader, entry.name)
    if not ok then return nil, reason, code end
  end
  for i = #stage.folders, 1, -1 do
    local ok, reason, code = files.sync_folder(stage.folders[i])
    if not ok then return nil, reason, code end
  end
  if stopped() then return nil, "interrupted", "interrupted" end
  return files.sync_folder(stage.path)
end

-- Each name at the top moves at once; when one fails the moved ones go back, so that `discard` finds them.
local function move_up(stage)
  local names = list(stage.path)
  for i, name in ipairs(names) do
    local ok, message, number = os.rename(stage.path .. "/" .. name, stage.target .. "/" .. name)
    if not ok then
      for back = 1, i - 1 do os.rename(stage.target .. "/" .. names[back], stage.path .. "/" .. names[back]) end
      return files.failure(ok, message, number)
    end
  end
  unistd.rmdir(stage.path)
  files.sync_folder(stage.target)
  return true
end

local function move_whole(stage)
  local ok, message, number = os.rename(stage.path, stage.target)
  if not ok then return files.failure(ok, message, number) end
  files.sync_folder(files.parent(stage.target))
  return true
end

local function extract(reader, folder, stopped)
  local stage, reason, code = new_stage(folder)
  if not stage then return nil, reason, code end
  local sound, ok
  sound, ok, reason, code = pcall(function()
    local filled, why, symbol = fill(stage, reader, stopped)
    if not filled then return nil, why, symbol end
    return (stage.inside and move_up or move_whole)(stage)
  end)
  if sound and ok then return true end
  discard(stage)
  if not sound then error(ok, 0) end
  return nil, reason, code
end

--- Unpacks an archive into a folder that is new or empty: all of it or nothing, also where a signal ends the process
-- meanwhile. Files get mode 0600, folders 0700.
-- @param reader
-- @tparam string folder
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string "bad_archive" or an errno symbol
function M.extract(reader, folder)
  folder = folder:match("^(.-)/*$")
  if folder == "" then folder = "/" end
  return interrupt.guard(function(stopped) return extract(reader, folder, stopped) end)
end

return M
