--- Makes `.ate` files that nobody would make in earnest: any metadata text, any header field, properly sealed and
-- signed. Follows the text of the format, not the code under test, except for the primitives.
local crypto = require "atelier.crypto"

local M = {}

M.LICENCE = "01234-56789-ABCDE-FGHJK-MNPQR"
M.DEVICE = "DEMO-PRO-001"
M.signer = crypto.signing_key(("s"):rep(32))

local BARE = "0123456789ABCDEFGHJKMNPQR"

M.METADATA = '{"artifact_id":"a-1","expires_at":null,"generation":1,"issued_at":"2025-01-01T00:00:00Z","plan":"pro",'
  .. '"template":"smartgram","tools":["timeline"],"version":"1.0.0"}'

--- The metadata text with one key's JSON replaced; nil removes the key.
function M.metadata(key, value)
  local pattern = '"' .. key .. '":[^,}%]]*%]?,?'
  local text = M.METADATA:gsub(pattern, function() return value and ('"%s":%s,'):format(key, value) or "" end)
  return (text:gsub(",}", "}"))
end

--- Seals. Options: `archive` (bytes), `text` (metadata), `signer` (false: none), `signer_id`, `suite`, `flags`,
-- `length`, `size`, `licence`, `device`, `after` (bytes behind the end).
function M.file(o)
  local signer = o.signer == nil and M.signer or o.signer or nil
  local text, device = o.text or M.METADATA, o.device or M.DEVICE
  local salt, nonce = crypto.random(32), crypto.random(12)
  local info = "ATE1 key\0" .. string.pack(">I2", #device) .. device
  local key = crypto.hkdf_sha256(o.licence or BARE, salt, info, 32)
  local id = o.signer_id or signer and crypto.sha256(signer:public()):sub(1, 8) or ("\0"):rep(8)
  local fixed = "ATE1" .. string.pack(">BBI2", o.suite or 1, o.flags or (signer and 1 or 0), o.length or 100 + #text)
    .. id .. salt .. nonce .. crypto.sha256(key) .. string.pack(">I8", o.size or #o.archive)
  assert(#fixed == 100)
  local head = fixed .. text
  local ciphertext, tag = crypto.gcm_seal(key, nonce, head, o.archive)
  local file = head .. ciphertext .. tag
  if signer then file = file .. signer:sign("ATE1 signature\0" .. crypto.sha256(file)) end
  return file .. (o.after or "")
end

return M
