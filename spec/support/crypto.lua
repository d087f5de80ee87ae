--- What the specs of atelier.crypto share: bytes in text forms, failures, files for a moment.
--
-- @module spec.support.crypto
local assert = require "luassert"
local crypto = require "atelier.crypto"

local M = {}

--- Bytes of hexadecimal digits, blanks ignored.
function M.x(digits)
  return assert(crypto.unhex((digits:gsub("%s", ""))))
end

--- Bytes of base64url.
function M.b64u(text)
  return assert(crypto.base64url_decode(text))
end

--- Asserts the failure triple and returns its message.
function M.refused(code, value, message, got)
  assert.is_nil(value)
  assert.is_string(message)
  assert.equal(code, got)
  return message
end

--- Asserts that a call raises, and how.
function M.raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, message)
end

--- A temporary file at its beginning that holds these bytes.
function M.file_of(bytes)
  local f = assert(io.tmpfile())
  assert(f:write(bytes or ""))
  assert(f:seek("set"))
  return f
end

--- All that a file holds.
function M.content(f)
  assert(f:seek("set"))
  return f:read("a")
end

--- A named file that is removed when the function returns.
function M.with_path(bytes, f)
  local path = os.tmpname()
  local out = assert(io.open(path, "wb"))
  assert(out:write(bytes))
  assert(out:close())
  local ok, message = pcall(f, path)
  os.remove(path)
  assert(ok, message)
end

return M
