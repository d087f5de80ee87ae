--- The store on a local disk: durable, whole files or none.
-- @module storage.local
local fs = require "atelier.fs"
local storage = require "storage"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"
local errno = require "posix.errno"
local utime = require "posix.utime"
local walk = require "storage.walk"

local M = {}
local Store = {}
Store.__index = Store

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
  return setmetatable({ root = root, pool = pool, walker = walk.new(root), kind = "local" }, Store)
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

function Store:poll(ticket)
  return self:wait(ticket, 0)
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

-- A disk answers at once, or holds everybody up.
function Store:look(key)
  return self:head(key)
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

-- What time the store has: its disk may be another machine's, whose clock the files' times are of.
local function disk_time(root)
  local path = root .. "/.clock"
  local file = io.open(path, "a")
  if file then
    file:close()
    utime.utime(path)
  end
  local info = file and stat.stat(path)
  return info and info.st_mtime or os.time()
end

function Store:list(prefix, after)
  local found, unfinished = self.walker:page(prefix or "", after, disk_time(self.root))
  if not found then
    return nil, "storage: list: " .. unfinished, "io"
  end
  return found, unfinished
end

-- Removes temporary files that are this old; a writer that lives has younger ones. Gives their number.
function Store:clear(unfinished, age)
  local count, now = 0, disk_time(self.root)
  for _, name in ipairs(unfinished) do
    local path = self.root .. "/" .. name
    local folder, base = name:match "^(.-)([^/]+)$"
    local info = base and walk.is_unfinished(base) and storage.is_safe(folder .. "x") and stat.lstat(path)
    if info and now - info.st_mtime >= age and unistd.unlink(path) then
      count = count + 1
    end
  end
  return count
end

function Store:staging()
  local path = self.root .. "/.staging"
  stat.mkdir(path, tonumber("700", 8))
  return path
end

function Store:close()
  self.pool:close()
end
Store.__close = Store.close

return M
