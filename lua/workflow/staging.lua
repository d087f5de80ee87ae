--- Where a worker makes large files: a folder for each, on the store's own disk. What else is prepared there, such as a
-- file that is copied or published, has names of the same form. Knows nothing of what is in them.
-- @module workflow.staging
local dirent = require "posix.dirent"
local errno = require "posix.errno"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local storage = require "storage"
local unistd = require "posix.unistd"
local utsname = require "posix.sys.utsname"

local M = {}

local EDQUOT <const> = 122 -- luaposix has no name for it
local PRIVATE <const> = 448 -- 0700: what lies in there is not sealed yet

local function names_in(folder)
  local ok, names = pcall(dirent.dir, folder)
  return ok and names or {}
end

-- The youngest of a folder and what is in it, or of a file.
local function changed_at(folder)
  local own = stat.lstat(folder)
  local newest = own and own.st_mtime or 0
  for _, name in ipairs(names_in(folder)) do
    local info = name ~= ".." and stat.lstat(folder .. "/" .. name)
    newest = info and math.max(newest, info.st_mtime) or newest
  end
  return newest
end

-- Of a process of this host that has ended. Another host's processes cannot be seen, and a dead one's number may be
-- another's by now: those count as left over when nothing has changed in them for `age` seconds.
local function is_left_over(root, name, age)
  local host, pid = name:match "^(.+)@(%d+)%.[^.]*$"
  if not host then
    return false
  elseif host == utsname.uname().nodename then
    local _, _, number = signal.kill(tonumber(pid), 0)
    if number == errno.ESRCH then
      return true
    end
  end
  return age ~= nil and os.time() - changed_at(root .. "/" .. name) >= age
end

--- Removes a folder that `make` gave, with what is in it, or a file.
-- @tparam string folder
function M.remove(folder)
  if unistd.unlink(folder) then
    return
  end
  for _, name in ipairs(names_in(folder)) do
    if name ~= "." and name ~= ".." then
      unistd.unlink(folder .. "/" .. name)
    end
  end
  unistd.rmdir(folder)
end

--- Removes what workers of this host left when they were killed.
-- @tparam string root
-- @tparam[opt] number age seconds after which another host's, too, count as left
-- @treturn integer number of folders
function M.sweep(root, age)
  local count = 0
  for _, name in ipairs(names_in(root)) do
    if is_left_over(root, name, age) then
      M.remove(root .. "/" .. name)
      count = count + 1
    end
  end
  return count
end

--- Makes a folder for one file and what leads to it.
-- @tparam string root
-- @tparam string name without a dot
-- @treturn[1] string folder
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "io", or "full"
function M.make(root, name)
  local folder = storage.draft(root, name)
  local ok, message, number = stat.mkdir(folder, PRIVATE)
  if not ok then
    local code = (number == errno.ENOSPC or number == EDQUOT) and "full" or "io"
    return nil, "staging: make folder: " .. message, code
  end
  return folder
end

return M
