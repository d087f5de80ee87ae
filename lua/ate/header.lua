--- The 100 fixed bytes of an `.ate` file, and what is derived from them: key, signed message, sizes.
-- Owns the layout. Must not know files, metadata fields or trust.
local crypto = require "atelier.crypto"

local M = {}

M.MAGIC = "ATE1"
M.FIXED = 100
M.MAX_LENGTH = 65535
M.TAG = 16
M.SIGNATURE = 64
M.MIN_ARCHIVE = 22 -- an empty ZIP
M.MAX_ARCHIVE = (1 << 36) - 32 -- what one GCM nonce may cover
M.UNSIGNED = ("\0"):rep(8)

local LAYOUT = ">c4BBI2c8c32c12c32I8"
local SUITE = 1
local SIGNED = 1

--- Encodes the fixed part.
-- @tparam table h `{signed, length, signer_id, salt, nonce, commitment, archive_size}`
-- @treturn string 100 bytes
function M.encode(h)
  return LAYOUT:pack(M.MAGIC, SUITE, h.signed and SIGNED or 0, h.length, h.signer_id, h.salt, h.nonce, h.commitment,
    h.archive_size)
end

local function bad_field(h)
  if h.length < M.FIXED then return ("header length %d is below %d"):format(h.length, M.FIXED) end
  if h.archive_size < M.MIN_ARCHIVE or h.archive_size > M.MAX_ARCHIVE then
    return ("archive length %u is not possible"):format(h.archive_size)
  end
  if h.signed == (h.signer_id == M.UNSIGNED) then
    return h.signed and "signed, but without a signer id" or "unsigned, but with a signer id"
  end
end

--- Decodes and checks the fixed part, in the order of the format.
-- @tparam string bytes the file's first 100 bytes, or all that there are
-- @tparam integer size of the file
-- @treturn[1] table as `encode` takes it
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string code
function M.decode(bytes, size)
  if bytes:sub(1, 4) ~= M.MAGIC then return nil, "not an .ate file", "not_ate" end
  if #bytes < M.FIXED then return nil, "ends within the header", "truncated" end
  local _, suite, flags, length, signer_id, salt, nonce, commitment, archive_size = LAYOUT:unpack(bytes)
  if suite ~= SUITE then return nil, ("suite %d is not known"):format(suite), "unsupported" end
  if flags & ~SIGNED ~= 0 then return nil, ("flags 0x%02x are not known"):format(flags), "unsupported" end
  local h = {
    signed = flags == SIGNED, length = length, signer_id = signer_id, salt = salt, nonce = nonce,
    commitment = commitment, archive_size = archive_size,
  }
  local reason = bad_field(h)
  if reason then return nil, reason, "bad_header" end
  local expected = M.size(h)
  if size < expected then return nil, ("has %d of %d bytes"):format(size, expected), "truncated" end
  if size > expected then return nil, ("has %d bytes after its end"):format(size - expected), "trailing_data" end
  return h
end

--- The size of the whole file that a header describes.
-- @tparam table h
-- @treturn integer
function M.size(h)
  return h.length + h.archive_size + M.TAG + (h.signed and M.SIGNATURE or 0)
end

--- The AES key of one file: the licence key and the device together, under the file's salt.
-- @tparam string licence 25 characters, upper case, no dashes
-- @tparam string device_hash
-- @tparam string salt 32 bytes
-- @return a `crypto.secret` of 32 bytes
function M.derive(licence, device_hash, salt)
  return crypto.hkdf_sha256(licence, salt, "ATE1 key\0" .. (">s2"):pack(device_hash), 32)
end

--- The 8 bytes that name a signing key.
-- @tparam string public 32 bytes
-- @treturn string
function M.signer_id(public)
  return crypto.sha256(public):sub(1, 8)
end

--- What the signature is made over.
-- @tparam string digest SHA-256 of the file up to and including the tag
-- @treturn string 47 bytes
function M.signed_message(digest)
  return "ATE1 signature\0" .. digest
end

return M
