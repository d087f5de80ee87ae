--- An object of a remote store, read in pieces as a file is read: each piece is a request of its own, so that memory
-- stays small, and all must be of one and the same object. `reader.size` is its size in bytes, and `reader.sha256`,
-- where the store tells it, what its metadata says of its hash: nobody has compared that with the bytes.
-- @module storage.reader
local M = {}
local Reader = {}
Reader.__index = Reader

local PIECE = 1 << 20 -- bytes that are asked for at once

-- The entity tag in one form: a proxy on the way may have made it weak (W/), and some servers leave the quotes out.
local function plain(etag)
  etag = etag and etag:gsub("^W/", "")
  return etag and (etag:find '^"' and etag or '"' .. etag .. '"')
end

-- Whether a piece is of another object; one that tells no entity tag, or no size of the whole, is not held against it.
local function is_other(self, piece, length)
  local etag = plain(piece.etag)
  return self.etag and etag and etag ~= self.etag or piece.size and piece.size ~= self.size or #piece.data ~= length
end

--- Reads on.
-- @tparam[opt] integer bytes at most; a MiB by default
-- @treturn[1] string
-- @treturn[2] nil at the end
-- @return[3] nil: the object has changed, or the store is out of reach
-- @treturn[3] string message
-- @treturn[3] string code
-- @treturn[3] number|nil seconds that the store asks to wait
-- @function reader:read
function Reader:read(bytes)
  if self.at >= self.size then
    return nil
  end
  local last = math.min(self.at + math.min(bytes or PIECE, PIECE), self.size) - 1
  local piece, message, code, seconds = self.fetch(self.at, last, self.etag)
  if not piece then
    return nil, message, code, seconds
  elseif is_other(self, piece, last - self.at + 1) then
    return nil, ("storage: get %s: the object is another one than it was"):format(self.key), "corrupt"
  end
  self.etag, self.at = plain(piece.etag) or self.etag, self.at + #piece.data
  return piece.data
end

--- Where to read on.
-- @tparam string whence "set", "cur" or "end"
-- @tparam[opt=0] integer offset
-- @treturn integer position
-- @function reader:seek
function Reader:seek(whence, offset)
  local from = whence == "end" and self.size or whence == "set" and 0 or self.at
  self.at = from + (offset or 0)
  return self.at
end

--- Nothing is open between two pieces.
-- @function reader:close
function Reader:close()
  self.at = self.size
  return true
end

Reader.__close = Reader.close

--- A reader.
-- @tparam function fetch (from, to, etag) → {data, etag, size} | nil, message, code, seconds
-- @tparam table found `size` and, where they are known, `etag` and `sha256`
-- @tparam string key
-- @treturn table reader
function M.new(fetch, found, key)
  return setmetatable({ fetch = fetch, key = key, at = 0, size = found.size, etag = plain(found.etag),
    sha256 = found.sha256 }, Reader)
end

return M
