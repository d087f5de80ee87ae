--- The tokens of users: a secret of decent length, keys that can be fetched.
-- @module doctor.tokens
local crypto = require "atelier.crypto"
local http = require "atelier.http"
local json = require "atelier.json"

local M = {}

local DECENT = 32 -- bytes (RFC 7518, section 3.2)

local function secret(config, tell)
  if not config.jwt_secret then
    return tell("ok", "secret", "none configured: one of this host's own is used, for tokens of `atelier token`")
  elseif #config.jwt_secret < DECENT then
    return tell("warn", "secret", ("has %d characters"):format(#config.jwt_secret), "Use one of 32 or more.")
  end
  tell("ok", "secret", "HS256 tokens are accepted")
end

local function usable(document)
  local count = 0
  for _, jwk in ipairs(type(document) == "table" and type(document.keys) == "table" and document.keys or {}) do
    local key = type(jwk) == "table" and crypto.public_key(jwk)
    count = count + (key and 1 or 0)
  end
  return count
end

local function key_set(config, tell)
  local url = config.jwks_url
  if not url and config.supabase_url then
    url = config.supabase_url:gsub("/+$", "") .. "/auth/v1/.well-known/jwks.json"
  end
  if not url then
    return
  end
  local response, message = http.request { url = url, timeout = 10, max_bytes = 65536 }
  if not response or response.status ~= 200 then
    return tell("fail", "key set", message or ("%s answers with status %d"):format(url, response.status),
      "Check SUPABASE_URL or jwks_url, and that this host may reach it.")
  end
  local count = usable(json.decode(response.body))
  if count > 0 then
    tell("ok", "key set", ("%d signing keys"):format(count))
  elseif config.jwt_secret then
    tell("ok", "key set", "empty, as of a project that signs with its secret")
  else
    tell("fail", "key set", "has no key that could be used",
      "Set SUPABASE_JWT_SECRET: the project signs with its secret.")
  end
end

--- Examines; see `doctor`.
-- @tparam table patient
-- @tparam function tell
function M.run(patient, tell)
  secret(patient.config, tell)
  key_set(patient.config, tell)
end

return M
