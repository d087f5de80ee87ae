--- Random UUIDs (RFC 9562, version 4).
-- @module uuid
local crypto = require "atelier.crypto"

local M = {}

--- A new one.
-- @treturn string in lower case, with dashes
function M.new()
  local b = { crypto.random(16):byte(1, 16) }
  b[7] = b[7] & 0x0f | 0x40
  b[9] = b[9] & 0x3f | 0x80
  return (("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"):format(table.unpack(b)))
end

return M
