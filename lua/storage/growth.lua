--- Files that are sent while they are still being written. Runs in tasks of storage.reactor.
--
-- Such a source is a table of `path`, `size` (that it will have), and `state`, a function → nil while it is written,
-- then true and its SHA-256 in hex, or false, message, code. Its maker writes its end only when all is well with it: a
-- store that has every byte has a good file. `options.growing` of a put is the source, until it is complete.
-- @module storage.growth
local reactor = require "storage.reactor"
local stat = require "posix.sys.stat"

local M = {}

local PAUSE = 0.01 -- seconds between two looks

--- Whether a source of a put is one of these.
-- @param source
-- @treturn boolean
function M.is_growing(source)
  return type(source) == "table" and source.path ~= nil
end

--- How it is with it; notes the hash of one that is complete.
-- @tparam table options of the put
-- @treturn[1] boolean true: it is complete, or was never growing
-- @treturn[2] boolean false
-- @treturn[3] nil
-- @treturn[3] string message
-- @treturn[3] string code of its maker
function M.look(options)
  if not options.growing then
    return true
  end
  local state, what, code = options.growing.state()
  if state then
    options.sha256, options.growing = what, nil
  elseif state == false then
    return nil, what, code
  end
  return state or false
end

local function size_of(path)
  local info = stat.stat(path)
  return info and info.st_size or 0
end

--- Waits until so many bytes are there, or the file is complete.
-- @tparam table options of the put
-- @tparam string path
-- @tparam[opt] integer bytes without it: until it is complete
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of its maker
function M.await(options, path, bytes)
  local done, message, code = M.look(options)
  while done == false and not (bytes and size_of(path) >= bytes) do
    reactor.pause(PAUSE)
    done, message, code = M.look(options)
  end
  if done == nil then
    return nil, message, code
  end
  return true
end

--- Sends what grows in one request, which waits for more at the file's end; one whose file is given up breaks off.
-- @tparam table options of the put
-- @tparam string path
-- @tparam function send makes the request
-- @return what `send` gives, or nil, message, code of the file's maker
function M.send(options, path, send)
  local is_over = false
  local results = reactor.together { function()
    local result = table.pack(send())
    is_over = true
    return table.unpack(result, 1, result.n)
  end, function()
    local done, message, code
    repeat
      reactor.pause(PAUSE)
      done, message, code = M.look(options)
    until done ~= false or is_over
    if done == nil then
      os.remove(path) -- this is how the request is told
    end
    return message, code
  end }
  local sent, made = results[1], results[2]
  if not sent[1] and made[1] then
    return nil, made[1], made[2]
  end
  return table.unpack(sent, 1, sent.n)
end

return M
