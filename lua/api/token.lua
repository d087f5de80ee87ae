--- Makes bearer tokens of its own: for the demo, for devices in tests, for an operator at the machine.
-- Signed with the secret that the API verifies HS256 tokens with. Must not know the database.
-- @module api.token
local crypto = require "atelier.crypto"
local json = require "atelier.json"

local M = {}

local HEADER = crypto.base64url_encode '{"alg":"HS256","typ":"JWT"}'

--- Signs claims.
-- @tparam string|secret secret
-- @tparam table claims
-- @treturn string token
function M.sign(secret, claims)
  local signed = HEADER .. "." .. crypto.base64url_encode(assert(json.encode(claims)))
  return signed .. "." .. crypto.base64url_encode(assert(crypto.hmac_sha256(secret, signed)))
end

--- A user's token.
-- @tparam string|secret secret
-- @tparam table config `jwt_audience`, `jwt_issuer`
-- @tparam string user a UUID
-- @tparam integer ttl seconds
-- @tparam[opt] integer now seconds since 1970
-- @treturn string token
function M.user(secret, config, user, ttl, now)
  now = now or os.time()
  return M.sign(secret, { sub = user:lower(), role = "authenticated", aud = config.jwt_audience,
    iss = config.jwt_issuer, iat = now, exp = now + ttl })
end

--- An operator's token.
-- @tparam string|secret secret
-- @tparam table config `jwt_issuer`
-- @tparam integer ttl seconds
-- @tparam[opt] integer now seconds since 1970
-- @treturn string token
function M.operator(secret, config, ttl, now)
  now = now or os.time()
  return M.sign(secret, { role = "service_role", iss = config.jwt_issuer, iat = now, exp = now + ttl })
end

return M
