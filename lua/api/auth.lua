--- Who asks: reads and verifies the bearer token of a request.
--
-- Owns the rules of RFC 7515 as far as they are used here; those of RFC 7519 are in api.claims. The key decides the
-- algorithm: HS256 belongs to the secret, ES256 and RS256 to the key that the JWKS has under the token's `kid`. Never
-- logs a token or a part of one. Must not know routes or the database.
--
-- What is refused with 401: no token, a malformed one, a wrong signature, one whose time is over or has not come, and
-- one that names nobody (role `anon`): another token helps. With 403: a token that is good but for others, such as
-- service_role where a user is meant: signing in again does not help.
-- @module api.auth
local check = require "config.check"
local claims_of = require "api.claims"
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local jwks = require "api.jwks"
local problem = require "api.problem"
local secret = require "api.secret"

local M = {}

local LONGEST = 8192 -- bytes of a token
local CACHED = 4096 -- verified tokens that are remembered, and as many before them

local bad, unauthorized = claims_of.bad, claims_of.unauthorized

local Auth = {}
Auth.__index = Auth

-- ==== the token's form =========================================================================

-- Postgres cannot hold a NUL, which JSON can say; behind an even number of backslashes they are only digits.
local function has_nul(text)
  local at = text:find("\\u0000", 1, true)
  while at do
    local first = at
    while text:byte(first - 1) == 92 do
      first = first - 1
    end
    if (at - first) % 2 == 0 then
      return true
    end
    at = text:find("\\u0000", at + 6, true)
  end
  return false
end

local function decode_object(segment)
  local text = crypto.base64url_decode(segment)
  if not text or has_nul(text) then
    return nil
  end
  local value = json.decode(text, { max_depth = 32 })
  if type(value) ~= "table" or json.is_array(value) then
    return nil
  end
  return value, text
end

local function split(token)
  if #token > LONGEST then
    return nil, bad "the token is too long"
  end
  local head, body, signature = token:match "^([%w_-]+)%.([%w_-]+)%.([%w_-]+)$"
  local header = head and decode_object(head)
  local claims, text = decode_object(body or "")
  signature = crypto.base64url_decode(signature or "=")
  if not header or not claims or not signature then
    return nil, bad "the token is malformed"
  elseif header.crit ~= nil then
    return nil, bad "the token has critical extensions, which are not known here"
  end
  return { header = header, claims = claims, text = text, signature = signature, signed = head .. "." .. body }
end

-- ==== the signature ============================================================================

local VERIFY = {}

function VERIFY.HS256(self, parts)
  if not self.secret then
    return bad "the token's algorithm is not accepted"
  end
  local mac = assert(crypto.hmac_sha256(self.secret, parts.signed))
  if not crypto.equal(mac, parts.signature) then
    return bad "the token's signature is wrong"
  end
end

local function verify_with_key(self, parts)
  if not self.keys then
    return bad "the token's algorithm is not accepted"
  elseif type(parts.header.kid) ~= "string" then
    return bad "the token names no key"
  end
  local key, code = self.keys:find(parts.header.kid)
  if not key then
    if code == "unavailable" then
      return problem.new(503, "keys_unavailable", "the keys that sign tokens cannot be fetched at the moment",
        { headers = { ["Retry-After"] = "5" } })
    end
    return bad "the token's key is unknown"
  end
  if not key:verify(parts.header.alg, parts.signed, parts.signature) then -- nil for an algorithm that is not the key's
    return bad "the token's signature is wrong"
  end
  parts.key = key
end

VERIFY.ES256, VERIFY.RS256 = verify_with_key, verify_with_key

-- Thousands of identities are remembered, and few are asked for their claims: those are read again then.
local Identity = {}

function Identity:__index(name)
  return name == "claims" and json.decode(self.text) or nil
end

-- ==== verifying ================================================================================

local function identify(self, parts, now)
  local verify = VERIFY[parts.header.alg]
  if not verify then
    return nil, bad "the token's algorithm is not accepted"
  end
  local claims = parts.claims
  local fault = verify(self, parts) or claims_of.time_fault(claims, now)
    or claims_of.issuer_fault(claims, self.issuer)
  if fault then
    return nil, fault
  end
  local identity = setmetatable({ id = type(claims.sub) == "string" and claims.sub:lower() or nil, role = claims.role,
    text = parts.text, expires = claims.exp + claims_of.LEEWAY, starts = (claims.nbf or now) - claims_of.LEEWAY,
    user_fault = claims_of.user_fault(claims, self.audience),
    operator_fault = claims_of.operator_fault(claims) }, Identity)
  if parts.key then
    identity.kid, identity.key = parts.header.kid, parts.key
  end
  return identity
end

local function remember(self, digest, identity)
  if self.count >= CACHED then
    self.former, self.recent, self.count = self.recent, {}, 0
  end
  self.recent[digest] = identity
  self.count = self.count + 1
end

-- A token that was verified is good until its time is over, or its key is gone.
local function recall(self, digest, now)
  local identity = self.recent[digest]
  if not identity then
    identity = self.former[digest]
    if not identity then
      return nil
    end
    remember(self, digest, identity)
  end
  if now >= identity.expires or now < identity.starts
    or identity.kid and not self.keys:has(identity.kid, identity.key) then
    self.recent[digest] = nil
    return nil
  end
  return identity
end

-- The identity has `id`, `role`, `claims`, `text` (the claims as JSON); `user_fault` and `operator_fault` are problems,
-- absent when it may be used as such.
local function verify(self, token, now)
  local parts, fault = split(token)
  if not parts then
    return nil, fault
  end
  return identify(self, parts, now)
end

local function token_of(authorization)
  local _, from = authorization:find "^[Bb][Ee][Aa][Rr][Ee][Rr] +[^ ]" -- RFC 9110, 11.4: one blank or more
  if from and not authorization:find(" ", from, true) then
    return authorization:sub(from)
  end
end

-- What was verified once is found again by the whole header's digest, before anything of it is looked at.
local function identity_of(self, authorization)
  if not authorization then
    return nil, unauthorized("no_token", "a bearer token is needed")
  end
  local now, digest = self.clock(), assert(crypto.sha256(authorization))
  local identity = recall(self, digest, now)
  if identity then
    return identity
  end
  local token = token_of(authorization)
  if not token then
    return nil, bad "the Authorization header is not a bearer token"
  end
  local fault
  identity, fault = verify(self, token, now)
  if identity then
    remember(self, digest, identity)
  end
  return identity, fault
end

--- Finds out who asks.
-- @tparam ?string authorization the header's value; the server refuses two of them
-- @tparam string kind "user" or "operator"
-- @treturn table identity; raises a problem when it is not one of that kind
function Auth:require(authorization, kind)
  local identity, fault = identity_of(self, authorization)
  fault = fault or identity[kind == "operator" and "operator_fault" or "user_fault"]
  if fault then
    error(fault, 0)
  end
  return identity
end

--- A verifier.
-- @tparam table options `secret` of HS256 (string or crypto.secret), `keys` (of api.jwks), `audience` of users'
--   tokens, `issuer` (any when absent), `clock` (os.time)
-- @treturn table auth
function M.new(options)
  return setmetatable({ secret = options.secret, keys = options.keys, audience = options.audience or "authenticated",
    issuer = options.issuer, clock = options.clock or os.time, recent = {}, former = {}, count = 0 }, Auth)
end

--- The verifier that a configuration asks for.
-- @tparam table config a project of http on another machine has its tokens verified by `jwt_secret` alone
-- @treturn[1] table auth
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.of_config(config)
  local key, message, code = secret.ensure(config)
  if not key then
    return nil, message, code
  end
  local url, keys = config.jwks_url, nil
  if not url and config.supabase_url and (check.is_private(config.supabase_url) or not config.jwt_secret) then
    url = config.supabase_url:gsub("/+$", "") .. "/auth/v1/.well-known/jwks.json"
  end
  if url then
    keys, message, code = jwks.new(url)
    if not keys then
      return nil, message, code
    end
  end
  return M.new { secret = key, keys = keys, audience = config.jwt_audience, issuer = config.jwt_issuer }
end

return M
