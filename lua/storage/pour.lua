--- Carries bytes from what is read (a file, a reader of storage) to where they go, a piece at a time. What the world
-- does wrong is told, never raised. Knows neither end.
-- @module storage.pour
local errno = require "posix.errno"

local M = {}

local PIECE = 1 << 20
local EDQUOT = 122 -- luaposix has no name for it
local NAMES = { [errno.ENOSPC] = "full", [EDQUOT] = "full", [errno.EROFS] = "read_only" }

-- The code of a failure: Lua's own files give errno's number.
local function failure(message, code)
  return nil, message, type(code) == "number" and (NAMES[code] or "io") or code or "io"
end

--- Carries all that is left.
-- @param from has `read(bytes)` → string | nil at the end | nil, message, code
-- @tparam function sink called with each piece; gives something true, or nil, message, code
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of either end; of a file "full", "read_only" or "io"
function M.pour(from, sink)
  while true do
    local data, message, code = from:read(PIECE)
    if not data and message then
      return failure(message, code)
    elseif not data then
      return true
    end
    local ok, why, reason = sink(data)
    if not ok then
      return failure(why, reason)
    end
  end
end

--- Carries all that is left into a new file, or into none: what was written last may not fit, and only the close tells.
-- @param from as of `pour`
-- @tparam string path
-- @tparam[opt] function see called with each piece
-- @return as `pour`
function M.into_file(from, path, see)
  local file, problem, number = io.open(path, "wb")
  if not file then
    return failure(problem, number)
  end
  local ok, message, code = M.pour(from, function(data)
    if see then
      see(data)
    end
    return file:write(data)
  end)
  local closed, why, reason = file:close()
  if ok and closed then
    return true
  end
  os.remove(path)
  if not ok then
    return nil, message, code
  end
  return failure(why, reason)
end

return M
