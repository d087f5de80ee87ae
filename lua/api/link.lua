--- Download links: who may fetch which file until when, without a token.
--
-- A link is 80 characters: user (16 bytes), expiry (8), which key (4) and an HMAC-SHA256 (32) over all of it and the
-- file, in base64url. Its key is derived from the key ring's master key, which every host has: licence keys come from
-- it. A link says who asks, not that he may: the download asks that anew. Must not know the database or HTTP.
-- @module api.link
local crypto = require "atelier.crypto"
local metadata = require "ate.metadata"

local M = {}

--- Seconds that a link is good for at most.
M.LONGEST = 300

local SIZE = 16 + 8 + 4 + 32
local PURPOSE = "atelier download link 1"
-- After a rotation other hosts go on with the old key until they have the new ring; so do links that are under way.
local OVERLAP = 2 * M.LONGEST

local Keys = {}
Keys.__index = Keys
Keys.__name = "api.link.keys"

function Keys.__tostring() return "keys of download links" end

local function bytes_of(uuid)
  local hex = type(uuid) == "string" and uuid:gsub("-", "") or ""
  return #hex == 32 and crypto.unhex(hex) or nil
end

local function uuid_of(bytes)
  return (crypto.hex(bytes):gsub("^(%x%x%x%x%x%x%x%x)(%x%x%x%x)(%x%x%x%x)(%x%x%x%x)", "%1-%2-%3-%4-"))
end

--- The keys of links, from the key ring. All hosts with the same ring get the same ones.
-- @tparam table ring see ate.keyring
-- @treturn[1] table keys
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.keys(ring)
  local keys, newer = setmetatable({ by_tag = {} }, Keys), nil
  local list = ring:list()
  for i = #list, 1, -1 do
    local entry = list[i]
    if entry.kind == "master" then
      local key, message, code = crypto.hkdf_sha256(ring:master(entry.id), "", PURPOSE, 32)
      if not key then return nil, message, code end
      local tag = crypto.unhex(entry.id):sub(1, 4)
      keys.by_tag[tag] = { secret = key, replaced_at = newer }
      newer = entry.created_at
      if entry.current then keys.tag = tag end
    end
  end
  return keys
end

local function mac(secret, head, file)
  return assert(crypto.hmac_sha256(secret, PURPOSE .. "\0" .. head .. file))
end

--- Makes the path of a link.
-- @tparam table keys as of `keys`
-- @tparam string user UUID
-- @tparam string file UUID
-- @tparam integer expiry in seconds since 1970; brought down to five minutes from now
-- @treturn string path with its query
function M.make(keys, user, file, expiry)
  local file_bytes = assert(bytes_of(file), "link: the file's id is not a UUID")
  local head = string.pack(">c16I8c4", assert(bytes_of(user), "link: the user's id is not a UUID"),
    math.min(math.floor(expiry), os.time() + M.LONGEST), keys.tag)
  local text = crypto.base64url_encode(head .. mac(keys.by_tag[keys.tag].secret, head, file_bytes))
  return "/api/ate/download/" .. uuid_of(file_bytes) .. "?link=" .. text
end

--- Who a link is for. Nothing of it is believed before the whole of it is.
-- @tparam table keys as of `keys`
-- @tparam string text the link's parameter
-- @tparam string file UUID of the path that it came with
-- @tparam[opt] integer now in seconds since 1970
-- @treturn[1] string user, as a UUID
-- @treturn[1] integer expiry
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "link_invalid" or "link_expired"
function M.check(keys, text, file, now)
  now = now or os.time()
  local bytes, file_bytes = crypto.base64url_decode(text), bytes_of(file)
  if not bytes or #bytes ~= SIZE or not file_bytes or crypto.base64url_encode(bytes) ~= text then
    return nil, "download: the link is malformed", "link_invalid"
  end
  local head = bytes:sub(1, 28)
  local user, expiry, tag = string.unpack(">c16I8c4", head)
  local key = keys.by_tag[tag]
  if not key or key.replaced_at and key.replaced_at <= metadata.time(now - OVERLAP)
    or not crypto.equal(mac(key.secret, head, file_bytes), bytes:sub(29)) then
    return nil, "download: the link was changed, or is for another file", "link_invalid"
  elseif now >= expiry then
    return nil, "download: the link has expired", "link_expired"
  end
  return uuid_of(user), expiry
end

return M
