--- Who signed a file, and whether that is good enough. Owns the verdicts `unknown_signer` and `bad_signature`.
-- Must not know files or archives.
local crypto = require "atelier.crypto"
local header = require "ate.header"
local pubkey = require "ate.pubkey"

local M = {}

--- Reads the options `signer` and `trusted` of an operation.
-- @tparam table options `signer`: one public key, whose files alone pass; or `trusted`: 8-byte signer id → 32 bytes
-- @tparam boolean strict whether a file of anyone else is refused even without `signer`
-- @treturn[1] table trust
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_key"
function M.new(options, strict)
  if not options.signer then return { keys = options.trusted or {}, strict = strict } end
  local public, message, code = pubkey.parse(options.signer)
  if not public then return nil, message, code end
  return { keys = { [header.signer_id(public)] = public }, strict = true }
end

--- Adds a warning to a result.
function M.warn(result, code, message)
  result.warnings[#result.warnings + 1] = { code = code, message = message }
end

--- Gives the verdict on a file of a signer that is not trusted.
-- @tparam table trust
-- @tparam string reason
-- @tparam table result gets the warning where it is one
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string "unknown_signer"
function M.unknown(trust, reason, result)
  if trust.strict then return nil, reason, "unknown_signer" end
  M.warn(result, "unknown_signer", reason)
  return true
end

--- Checks the signature of an `.ate` file.
-- @tparam table trust
-- @tparam table head as `header.decode` gives it
-- @tparam string digest SHA-256 of everything up to and including the tag
-- @tparam string signature
-- @tparam table result gets `signed_by` or a warning
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string "unknown_signer" or "bad_signature"
function M.check(trust, head, digest, signature, result)
  if not head.signed then return M.unknown(trust, "is not signed", result) end
  local id = crypto.hex(head.signer_id)
  local public = trust.keys[head.signer_id]
  if not public then return M.unknown(trust, ("signer %s is not trusted"):format(id), result) end
  if #signature ~= header.SIGNATURE or not crypto.ed25519_verify(public, header.signed_message(digest), signature) then
    return nil, "the signature does not fit", "bad_signature"
  end
  result.signed_by = id
  return true
end

return M
