--- Licence keys: 25 characters of Crockford base32 that a master key and a device id determine.
-- The same device has the same key in its trial, paid, and over renewals. Knows no database and no file.
local crypto = require "atelier.crypto"

local M = {}

local CONTEXT = "atelier licence 1\0"
local LENGTH = 25

--- Writes 25 bare characters the way people read them.
-- @tparam string bare what `normalise` returns
-- @treturn string XXXXX-XXXXX-XXXXX-XXXXX-XXXXX
function M.format(bare)
  return (bare:gsub(".....", "%0-", 4))
end

--- Reads a licence key as people write it: any case, with or without dashes, O for 0, I or L for 1.
-- @tparam string text
-- @treturn[1] string the 25 characters, upper case, no dashes
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_licence"
function M.normalise(text)
  if type(text) ~= "string" then error("licence: a key must be a string, not " .. type(text), 2) end
  local bare = text:match("^%s*(.-)%s*$"):gsub("%-", ""):upper():gsub("[OIL]", { O = "0", I = "1", L = "1" })
  if #bare ~= LENGTH then
    return nil, ("licence: a key has %d characters, this one has %d"):format(LENGTH, #bare), "bad_licence"
  end
  if bare:find("[^0-9A-HJKMNP-TV-Z]") then
    return nil, "licence: a key has only digits and the letters A to Z except U", "bad_licence"
  end
  return bare
end

local UUID = "^" .. ("h8-h4-h4-h4-h12"):gsub("h(%d+)", function(n) return ("%x"):rep(tonumber(n)) end)
  :gsub("%-", "%%-") .. "$"

--- The licence key of a device: the first 125 bits of an HMAC over its id.
-- @param master the master key, a `crypto.secret` (or a string, in specs)
-- @tparam string device_id a UUID in any case
-- @treturn[1] string the key, with dashes
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_device"
function M.key(master, device_id)
  if type(device_id) ~= "string" then error("licence: a device id must be a string, not " .. type(device_id), 2) end
  if not device_id:find(UUID) then
    return nil, "licence: the device id is not a UUID", "bad_device"
  end
  local mac = crypto.hmac_sha256(master, CONTEXT .. device_id:lower())
  return M.format(crypto.base32_encode(mac:sub(1, 16)):sub(1, LENGTH))
end

return M
