--- A folder of a spec's own, removed with all that is in it.
local live = require "spec.ate.support.live"
local stdlib = require "posix.stdlib"

local M = {}

local made = {}

--- Creates a folder; `clean` removes it.
function M.folder()
  local path = assert(stdlib.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/ate-spec-XXXXXX"))
  made[#made + 1] = path
  return path
end

--- Removes all folders made so far.
function M.clean()
  for _, path in ipairs(made) do os.execute(("rm -rf '%s'"):format(path)) end
  made = {}
end

--- For `before_each`: a folder, and the handles that are alive are noted. To be ended by `finish`.
-- @treturn string folder
function M.begin()
  live.mark()
  return M.folder()
end

--- For `after_each`: removes all folders, and sees that no handle is left alive.
function M.finish()
  M.clean()
  live.check()
end

--- Writes a file.
function M.write(path, ...)
  local file = assert(io.open(path, "wb"))
  assert(file:write(...))
  assert(file:close())
  return path
end

--- Reads a file.
function M.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

--- Names of all that is in a folder, at any depth, sorted, one a line.
function M.list(path)
  local pipe <close> = assert(io.popen(("cd '%s' && find . -mindepth 1 | LC_ALL=C sort"):format(path)))
  return pipe:read("a")
end

--- Runs a command; returns its exit code and all that it printed.
function M.run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local output = pipe:read("a")
  local _, _, code = pipe:close()
  return code, output
end

--- Quotes for the shell.
function M.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

return M
