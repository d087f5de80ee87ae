--- The store on a local disk: durable, whole files or none.
-- @module storage.local
local fs = require "atelier.fs"
local storage = require "storage"
local dirent = require "posix.dirent"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"
local errno = require "posix.errno"

local M = {}
local Store = {}
Store.__index = Store

local PAGE = 1000
local NAMES = { EEXIST = "exists", ENOENT = "not_found", ENOSPC = "full", EDQUOT = "full", EROFS = "read_only" }

local function failure(operation, key, message, number)
  local code = number == errno.ENOENT and "not_found" or "io"
  return nil, ("storage: %s %s: %s"):format(operation, key, message), code
end

local function refused(operation, key)
  return nil, ("storage: %s: key %q is not safe"):format(operation, key), "bad_key"
end

local function make_folders(path)
  local at = path:sub(1, 1) == "/" and "/" or ""
  for part in path:gmatch("[^/]+") do
    at = at .. part
    local ok, message, number = stat.mkdir(at, tonumber("750", 8))
    -- Only the last one counts: a folder above may be a mount point or not ours to make.
    if not ok and number ~= errno.EEXIST and not stat.stat(at) then
      return nil, message
    end
    at = at .. "/"
  end
  return true
end

--- Opens the store, making its folder.
-- @tparam table config storage_dir, storage_threads
-- @treturn[1] table store, see storage
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.open(config)
  local root = config.storage_dir
  local ok, message = make_folders(root)
  if not ok then
    return nil, ("storage: make folder: %s"):format(message), "io"
  end
  local pool, problem, code = fs.pool(root, config.storage_threads)
  if not pool then
    return nil, "storage: " .. problem, code
  end
  return setmetatable({ root = root, pool = pool, kind = "local" }, Store)
end

function Store:put(key, source)
  if not storage.is_safe(key) then
    return refused("put", key)
  end
  return self.pool:put(key, source)
end

function Store:wait(ticket, timeout)
  local ok, message, code = self.pool:wait(ticket, timeout or 300)
  if ok then
    return true
  end
  return nil, "storage: " .. message, NAMES[code] or code
end

function Store:get(key)
  if not storage.is_safe(key) then
    return refused("get", key)
  end
  local file, message, number = io.open(self.root .. "/" .. key, "rb")
  if not file then
    return failure("get", key, message, number)
  end
  return file
end

function Store:head(key)
  if not storage.is_safe(key) then
    return refused("head", key)
  end
  local info, message, number = stat.stat(self.root .. "/" .. key)
  if not info then
    return failure("head", key, message, number)
  end
  if stat.S_ISREG(info.st_mode) == 0 then
    return failure("head", key, "is not a file", errno.ENOENT)
  end
  return { size = info.st_size }
end

function Store:delete(keys)
  local count = 0
  for _, key in ipairs(keys) do
    if not storage.is_safe(key) then
      return refused("delete", key)
    end
    local ok, message, number = unistd.unlink(self.root .. "/" .. key)
    if ok then
      count = count + 1
    elseif number ~= errno.ENOENT then
      return failure("delete", key, message, number)
    end
  end
  return count
end

-- What a folder holds, in key order: a folder sorts with its slash. What the writer has not finished begins with a dot.
local function sorted_entries(root, folder)
  local entries = {}
  for _, name in ipairs(dirent.dir(root .. "/" .. folder)) do
    local info = name:sub(1, 1) ~= "." and stat.lstat(root .. "/" .. folder .. name)
    if info then
      local is_folder = stat.S_ISDIR(info.st_mode) ~= 0
      local key = folder .. name .. (is_folder and "/" or "")
      entries[#entries + 1] = { key = key, size = info.st_size, folder = is_folder }
    end
  end
  table.sort(entries, function(a, b)
    return a.key < b.key
  end)
  return entries
end

-- Walks in key order and stops when the page is full; a folder wholly before `after` or outside `prefix` is skipped.
local function walk(root, folder, prefix, after, found)
  for _, entry in ipairs(sorted_entries(root, folder)) do
    local key = entry.key
    if #found >= PAGE then
      return
    elseif entry.folder then
      local relevant = key:sub(1, #prefix) == prefix or prefix:sub(1, #key) == key
      if relevant and not (after and key .. "\255" < after) then
        walk(root, key, prefix, after, found)
      end
    elseif key:sub(1, #prefix) == prefix and not (after and key <= after) then
      found[#found + 1] = { key = key, size = entry.size }
    end
  end
end

function Store:list(prefix, after)
  local found = {}
  local ok, message = pcall(walk, self.root, "", prefix or "", after, found)
  if not ok then
    return nil, "storage: list: " .. tostring(message), "io"
  end
  return found
end

function Store:staging()
  local path = self.root .. "/.staging"
  stat.mkdir(path, tonumber("700", 8))
  return path
end

function Store:close()
  self.pool:close()
end

return M
