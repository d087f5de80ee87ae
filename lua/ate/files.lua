--- Files for things that must be whole or absent: reading regular files, durable replacement, unlinked scratch.
-- Must not know what is inside them. All failures are `nil, reason, code`, where code is the errno's symbol.
local crypto = require "atelier.crypto"
local errno = require "posix.errno"
local fcntl = require "posix.fcntl"
local stat = require "posix.sys.stat"
local stdio = require "posix.stdio"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"

local M = {}

local PRIVATE = 384 -- rw-------

local SYMBOLS = {}
for name, number in pairs(errno) do
  if math.type(number) == "integer" and name ~= "EWOULDBLOCK" and name ~= "ENOTSUP" then SYMBOLS[number] = name end
end

--- Turns what POSIX calls and Lua's io give on failure into `nil, reason, code`.
-- @tparam string message
-- @tparam integer number errno
-- @return nil
-- @treturn string reason, without the name of the file
-- @treturn string symbol, as "ENOENT"
function M.failure(_, message, number)
  return nil, errno.errno(number) or message, SYMBOLS[number] or "EUNKNOWN"
end

local failure = M.failure

--- The folder that holds a path.
function M.parent(path)
  local folder = path:match("^(.*)/[^/]*$")
  return folder == "" and "/" or folder or "."
end

--- A hidden name in a folder that nothing has yet.
function M.fresh_name(folder, tag)
  return ("%s/.%s.%s"):format(folder, tag, crypto.hex(crypto.random(8)))
end

--- Opens a regular file for reading. Never waits on a pipe.
-- @tparam string path
-- @treturn[1] file
-- @treturn[1] table what fstat says
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code; "irregular" for what is not a regular file
function M.open_read(path)
  local fd, message, number = fcntl.open(path, fcntl.O_RDONLY | fcntl.O_CLOEXEC | fcntl.O_NONBLOCK)
  if not fd then return failure(fd, message, number) end
  local info = stat.fstat(fd)
  if stat.S_ISREG(info.st_mode) == 0 then
    unistd.close(fd)
    return nil, "not a regular file", "irregular"
  end
  return stdio.fdopen(fd, "rb"), info
end

--- Makes the entries of a folder durable.
function M.sync_folder(folder)
  local fd, message, number = fcntl.open(folder, fcntl.O_RDONLY | fcntl.O_CLOEXEC)
  if not fd then return failure(fd, message, number) end
  local ok
  ok, message, number = unistd.fsync(fd)
  unistd.close(fd)
  if not ok then return failure(ok, message, number) end
  return true
end

--- Makes the contents of an open file durable.
function M.sync(file)
  local ok, message, number = file:flush()
  if ok then ok, message, number = unistd.fsync(stdio.fileno(file)) end
  if not ok then return failure(ok, message, number) end
  return true
end

--- Creates a file, mode 0600, that must not be there yet.
-- @treturn[1] file open for reading and writing
function M.create(path)
  local flags = fcntl.O_RDWR | fcntl.O_CREAT | fcntl.O_EXCL | fcntl.O_CLOEXEC
  local fd, message, number = fcntl.open(path, flags, PRIVATE)
  if not fd then return failure(fd, message, number) end
  return stdio.fdopen(fd, "w+b")
end

--- Where scratch space is: TMPDIR, else /var/tmp (on a disk, unlike /tmp on many machines).
function M.scratch_folder()
  return os.getenv("TMPDIR") or "/var/tmp"
end

--- Scratch space without a name: nobody else can open it and it vanishes with the process.
-- @tparam[opt] string folder default `scratch_folder`
-- @treturn[1] file
function M.scratch(folder)
  folder = folder or M.scratch_folder()
  local fd = fcntl.open(folder, fcntl.O_RDWR | fcntl.O_TMPFILE | fcntl.O_CLOEXEC, PRIVATE)
  if fd then return stdio.fdopen(fd, "w+b") end
  local path = M.fresh_name(folder, "scratch") -- some file systems have no O_TMPFILE
  local file, reason, code = M.create(path)
  if not file then return nil, reason, code end
  unistd.unlink(path)
  return file
end

local function replace(temporary, path)
  return os.rename(temporary, path)
end

local function link_new(temporary, path)
  local ok, message, number = unistd.link(temporary, path)
  if ok then unistd.unlink(temporary) end
  return ok, message, number
end

-- The last step of both ways to write: the bytes are on the disk, now the name.
local function name_it(temporary, path, rename, fleeting)
  local ok, message, number = rename(temporary, path)
  if not ok then return failure(ok, message, number) end
  return fleeting or M.sync_folder(M.parent(path))
end

local function fill(file, write, fleeting)
  local ok, reason, code = write(file)
  if not ok then return nil, reason, code end
  if not fleeting then return M.sync(file) end
  local message, number
  ok, message, number = file:flush()
  if not ok then return failure(ok, message, number) end
  return true
end

--- Writes a file durably, whole or not at all: a hidden temporary beside it, fsync, then its final name at once,
-- then fsync of the folder. The file has mode 0600.
-- @tparam string path
-- @tparam function write called with the open file; returns true or nil, reason, code
-- @tparam[opt] table options `exclusive`: fail with EEXIST rather than replace; `fleeting`: no need to survive a crash
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code
function M.write(path, write, options)
  options = options or {}
  local temporary = M.fresh_name(M.parent(path), "atelier")
  local file, reason, code = M.create(temporary)
  if not file then return nil, reason, code end
  local sound, ok
  sound, ok, reason, code = pcall(fill, file, write, options.fleeting)
  file:close()
  if sound and ok then
    ok, reason, code = name_it(temporary, path, options.exclusive and link_new or replace, options.fleeting)
    if ok then return true end
  end
  unistd.unlink(temporary)
  if not sound then error(ok, 0) end
  return nil, reason, code
end

--- Fills a file that is there and empty, while others may read it. When that fails the file is removed, and in that
-- they see it.
-- @tparam string path
-- @tparam function write as of `write`
-- @return as of `write`
function M.grow(path, write)
  local file, message, number = io.open(path, "r+b")
  if not file then return failure(file, message, number) end
  local sound, ok, reason, code = pcall(fill, file, write, true)
  file:close()
  if sound and ok then return true end
  unistd.unlink(path)
  if not sound then error(ok, 0) end
  return nil, reason, code
end

--- May `write` put a file there? It would replace also what is none: a device, a pipe, or a link to one.
-- @tparam string path
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code; "irregular" where something else than a regular file is
function M.replaceable(path)
  local folder, message, number = stat.stat(M.parent(path) .. "/.")
  if not folder then return failure(folder, message, number) end
  local info = stat.stat(path)
  if info and stat.S_ISDIR(info.st_mode) ~= 0 then return failure(nil, nil, errno.EISDIR) end
  local own = stat.lstat(path)
  local place = own and stat.S_ISLNK(own.st_mode) ~= 0 and (stdlib.realpath(M.parent(path)) or "") .. "/" or ""
  local system = place:find "^/dev/" or place:find "^/proc/" -- /dev/stdout, which may lead to a regular file
  if system or (info and stat.S_ISREG(info.st_mode) == 0) then return nil, "not a regular file", "irregular" end
  return true
end

--- Gives a finished file its final name, as `write` does. When that fails the file is removed.
-- @tparam string temporary a file in the same folder
-- @tparam string path
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code
function M.publish(temporary, path)
  stat.chmod(temporary, PRIVATE)
  local file <close>, reason, code = M.open_read(temporary)
  local ok
  if file then ok, reason, code = M.sync(file) end
  if ok then ok, reason, code = name_it(temporary, path, replace) end
  if ok then return true end
  unistd.unlink(temporary)
  return nil, reason, code
end

return M
