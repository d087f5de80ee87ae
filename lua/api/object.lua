--- An object of the store, on its way into an answer.
--
-- Owns how it is opened, so that one of another size than the row says is never sent, and how it is sent: a file of
-- this host by the kernel, what a remote store has in pieces, each asked for when the client has taken the last. Bytes
-- may change in a remote store while size and metadata stay: a whole object's hash is compared before its last piece is
-- sent. They may also change on the way here: only an object that is twice read to the same wrong end is damaged. Must
-- not know who may have it.
-- @module api.object
local clock = require "clock"
local crypto = require "atelier.crypto"

local M = {}
local Object = {}
Object.__index = Object

local PIECE = 1 << 20 -- each is a request of its own
local DAMAGED_SECONDS, MOST_DAMAGED = 600, 1000

local damaged, damaged_count = {}, 0 -- keys whose bytes were wrong → until when that is believed unseen

local function note_damaged(key)
  if damaged_count >= MOST_DAMAGED then
    damaged, damaged_count = {}, 0
  end
  damaged_count = damaged_count + (damaged[key] and 0 or 1)
  damaged[key] = clock.now() + DAMAGED_SECONDS
end

--- Opens an object.
-- @tparam table store see storage
-- @tparam string key
-- @tparam integer size that it must have
-- @tparam string checksum SHA-256 in hex that it must have
-- @treturn[1] table object; to be closed, `<close>` does
-- @return[2] nil
-- @treturn[2] string "missing", "size", "damaged" or "store" (which is out of order)
-- @treturn[2] string message
-- @treturn[2] number|nil seconds that the store asks to wait
function M.open(store, key, size, checksum)
  if damaged[key] and damaged[key] > clock.now() then -- no range of it either
    return nil, "damaged", "its bytes were not the file's"
  end
  local head, handle, message, code, seconds = store.kind ~= "local", nil, nil, nil, nil
  if not head then -- a remote store looks by itself; here to open anything but a file might wait
    head, message, code = store:head(key)
  end
  if head then
    handle, message, code, seconds = store:get(key)
  end
  if not handle then
    return nil, code == "not_found" and "missing" or "store", message, seconds
  end
  -- An object is never changed: what is open now has that size to its end. To ask a file for it reads a page of it.
  local found = head ~= true and head.size or handle:seek "end"
  if found ~= size then
    handle:close()
    return nil, "size", ("has %s bytes, not %d"):format(found, size)
  end
  local is_file = io.type(handle) == "file"
  if not is_file and handle.sha256 and handle.sha256 ~= checksum then
    handle:close()
    return nil, "damaged", ("the store says SHA-256 %s, not %s"):format(handle.sha256, checksum)
  end
  return setmetatable({ handle = handle, is_file = is_file, key = key, size = size, checksum = checksum }, Object)
end

--- Closes it.
function Object:close()
  self.handle:close()
end

Object.__close = Object.close

-- Reads all of it once more. Gives its hash, and its last piece.
local function read_again(self)
  local hash, left, last = crypto.hash(), self.size, nil
  self.handle:seek("set", 0)
  while left > 0 do
    local piece, message, code, seconds = self.handle:read(math.min(left, PIECE))
    if not piece then
      return nil, message, code, seconds
    end
    hash:update(piece)
    left, last = left - #piece, piece
  end
  return crypto.hex(hash:digest()), last
end

-- All was read, and is not the file: are these the store's bytes, or were they changed on the way? Gives the last piece
-- where it is all that there is, and is right by now.
local function judge(self, found, is_begun)
  local again, last, code, seconds = read_again(self)
  if not again then
    return nil, last, code, seconds
  elseif again == found then
    note_damaged(self.key)
    return nil, ("its bytes have SHA-256 %s, not %s"):format(found, self.checksum), "damaged"
  elseif again == self.checksum and not is_begun then
    return last
  end
  return nil, ("its bytes changed on the way: SHA-256 %s, read again %s"):format(found, again), "changed"
end

-- The next piece of a transfer. The last one of a whole object is given only when all are the file's.
local function next_piece(self, transfer)
  local is_begun = transfer.is_begun
  local piece, message, code, seconds = self.handle:read(math.min(transfer.left, PIECE))
  if not piece then
    return nil, message, code, seconds
  end
  transfer.left, transfer.is_begun = transfer.left - #piece, true
  local hash = transfer.hash
  if hash then
    hash:update(piece)
  end
  if hash and transfer.left <= 0 then
    local found = crypto.hex(hash:digest())
    if found ~= self.checksum then
      return judge(self, found, is_begun)
    end
  end
  return piece
end

-- The answer begins with the first piece there: a store that is out of order is found while it can still be told.
local function stream(self, call, answer, offset, length)
  self.handle:seek("set", offset)
  local transfer = { left = length, hash = offset == 0 and length == self.size and crypto.hash() or nil }
  local piece, message, code, seconds = next_piece(self, transfer)
  if not piece then
    return nil, message, code == "damaged" and code or "store", seconds
  end
  answer.stream, answer.length = true, length
  local ok, why, reason = call:respond(answer)
  while ok do
    ok, why, reason = call.request:write(piece)
    if not ok or transfer.left <= 0 then
      break
    end
    piece, message, code = next_piece(self, transfer)
    if not piece and code == "damaged" then
      return nil, message, code
    elseif not piece then
      error("the store failed in the middle: " .. tostring(message), 0) -- cuts the answer, so that the client knows
    end
  end
  return ok, why, reason
end

--- Answers with a part of it.
-- @tparam table call
-- @tparam table answer of `call:respond`: `status`, `headers`
-- @tparam integer offset
-- @tparam integer length more than 0
-- @treturn[1] boolean true
-- @return[2] nil: unless the code is "closed" (the client went) nothing was sent, or where `call.is_answered` not all:
--   then the answer is to be cut
-- @treturn[2] string message
-- @treturn[2] string code "damaged": its bytes are not the file's
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
