--- An object of the store, on its way into an answer.
--
-- Owns how it is opened, so that one of another size than the row says is never sent, and how it is sent: a file of
-- this host by the kernel, what a remote store has in pieces, each asked for when the client has taken the last. Must
-- not know who may have it.
-- @module api.object
local M = {}
local Object = {}
Object.__index = Object

local PIECE = 1 << 20 -- each is a request of its own

--- Opens an object.
-- @tparam table store see storage
-- @tparam string key
-- @tparam integer size that it must have
-- @treturn[1] table object; to be closed, `<close>` does
-- @return[2] nil
-- @treturn[2] string "missing", "size" or "store" (which is out of order)
-- @treturn[2] string message
-- @treturn[2] number|nil seconds that the store asks to wait
function M.open(store, key, size)
  local head, handle, message, code, seconds = true, nil, nil, nil, nil
  if store.kind == "local" then -- a remote store looks by itself; here to open anything but a file might wait
    head, message, code = store:head(key)
  end
  if head then
    handle, message, code, seconds = store:get(key)
  end
  if not handle then
    return nil, code == "not_found" and "missing" or "store", message, seconds
  end
  local found = handle:seek "end" -- an object is never changed: what is open now has that size to its end
  if found ~= size then
    handle:close()
    return nil, "size", ("has %s bytes, not %d"):format(found, size)
  end
  return setmetatable({ handle = handle, is_file = io.type(handle) == "file" }, Object)
end

--- Closes it.
function Object:close()
  self.handle:close()
end

Object.__close = Object.close

-- The answer begins with the first piece there: a store that is out of order is found while it can still be told.
local function stream(self, call, answer, offset, length)
  self.handle:seek("set", offset)
  local piece, message, _, seconds = self.handle:read(math.min(length, PIECE))
  if not piece then
    return nil, message, "store", seconds
  end
  answer.stream, answer.length = true, length
  local ok, why, code = call:respond(answer)
  while ok do
    ok, why, code = call.request:write(piece)
    length = length - #piece
    if not ok or length <= 0 then
      break
    end
    piece, message = self.handle:read(math.min(length, PIECE))
    if not piece then
      error("the store failed in the middle: " .. tostring(message), 0) -- cuts the answer, so that the client knows
    end
  end
  return ok, why, code
end

--- Answers with a part of it.
-- @tparam table call
-- @tparam table answer of `call:respond`: `status`, `headers`
-- @tparam integer offset
-- @tparam integer length more than 0
-- @treturn[1] boolean true
-- @return[2] nil: unless the code is "closed" (the client went) nothing was sent
-- @treturn[2] string message
-- @treturn[2] string code
-- @treturn[2] number|nil seconds that the store asks to wait
function Object:send(call, answer, offset, length)
  if self.is_file then
    answer.file = { handle = self.handle, offset = offset, length = length }
    return call:respond(answer)
  elseif call.request.method == "HEAD" then
    answer.stream, answer.length = true, length
    return call:respond(answer)
  end
  return stream(self, call, answer, offset, length)
end

return M
