--- Reads a configuration file as data: it sees nothing, and may neither run on nor grow.
-- @module config.evaluate
local M = {}

local LARGEST <const> = 1 << 20 -- bytes of a file, and of what its evaluation may take besides
local INSTRUCTIONS <const> = 1000000

--- Reads a file of a size that a configuration or a secret can have.
-- @tparam string path
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string message
function M.read_file(path)
  local file, message = io.open(path, "rb")
  if not file then
    return nil, message
  end
  local text, problem = file:read(LARGEST + 1)
  file:close()
  if not text and problem then
    return nil, path .. ": is not a readable file"
  elseif text and #text > LARGEST then
    return nil, path .. ": has more than a megabyte"
  end
  return text or ""
end

-- Looked at after each instruction: each may double what is there.
local function watch(path)
  local function refuse(reason)
    debug.sethook() -- or it would refuse what comes after the file, too
    error(path .. ": " .. reason .. "; it must only return a table", 0) -- no methods here either
  end
  local steps, most = 0, collectgarbage "count" * 1024 + LARGEST
  return function()
    steps = steps + 1
    if steps > INSTRUCTIONS then
      refuse "runs on and on"
    elseif collectgarbage "count" * 1024 > most then
      collectgarbage()
      if collectgarbage "count" * 1024 > most then
        refuse "takes more than a megabyte of memory"
      end
    end
  end
end

-- Texts have no methods meanwhile: one call of ("x"):rep() would take all memory in one instruction.
local function run(chunk, hook)
  local texts = getmetatable ""
  local methods = texts.__index
  texts.__index = nil
  local has_ended, ok, values = pcall(function()
    debug.sethook(hook, "", 1)
    local ok, values = pcall(chunk)
    debug.sethook() -- the hook may refuse on the way here, too
    return ok, values
  end)
  debug.sethook()
  texts.__index = methods
  if not has_ended then
    return false, ok
  end
  return ok, values
end

--- Evaluates.
-- @tparam string path
-- @treturn[1] table what the file returns
-- @return[2] nil
-- @treturn[2] string message
function M.evaluate(path)
  local text, message = M.read_file(path)
  if not text then
    return nil, message
  end
  local chunk, problem = load(text, "@" .. path, "t", {})
  if not chunk then
    return nil, problem
  end
  local ok, values = run(chunk, watch(path))
  if not ok then
    return nil, tostring(values)
  elseif type(values) ~= "table" then
    return nil, path .. ": must return a table, as in `return { worker_batch = 32 }`"
  end
  return values
end

return M
