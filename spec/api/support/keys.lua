--- Key pairs of issuers, made by openssl, and tokens that they sign: ES256 and RS256.
-- @module spec.api.support.keys
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local program = require "spec.support.program"

local M = {}

local Key = {}
Key.__index = Key

local MAKE = {
  ES256 = "openssl ecparam -name prime256v1 -genkey -noout -out %s/key.pem",
  RS256 = "openssl genrsa -out %s/key.pem 2048",
}

local function shell(command, ...)
  local code, out, err = program.shell(command:format(...))
  assert(code == 0, err)
  return out
end

local function slurp(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

--- Makes a pair.
-- @tparam string algorithm "ES256" or "RS256"
-- @tparam string kid
function M.new(algorithm, kid)
  local self = setmetatable({ algorithm = algorithm, kid = kid, dir = program.folder() }, Key)
  shell(MAKE[algorithm], self.dir)
  shell("openssl pkey -in %s/key.pem -pubout -out %s/public.pem", self.dir, self.dir)
  shell("openssl pkey -in %s/key.pem -pubout -outform DER -out %s/public.der", self.dir, self.dir)
  self.pem = slurp(self.dir .. "/public.pem")
  local der = slurp(self.dir .. "/public.der")
  if algorithm == "ES256" then
    self.jwk = { kty = "EC", crv = "P-256", x = crypto.base64url_encode(der:sub(-64, -33)),
      y = crypto.base64url_encode(der:sub(-32)) }
  else
    local modulus = shell("openssl rsa -pubin -in %s/public.pem -modulus -noout", self.dir):match "=(%x+)"
    self.jwk = { kty = "RSA", n = crypto.base64url_encode(crypto.unhex(modulus)), e = "AQAB" }
  end
  self.jwk.kid, self.jwk.use, self.jwk.alg = kid, "sig", algorithm
  return self
end

-- Two INTEGERs in a SEQUENCE, as two times 32 bytes.
local function raw_signature(der)
  local at, out = 3, {}
  for i = 1, 2 do
    local size = der:byte(at + 1)
    local value = der:sub(at + 2, at + 1 + size):gsub("^\0+", "")
    out[i] = ("\0"):rep(32 - #value) .. value
    at = at + 2 + size
  end
  return table.concat(out)
end

--- Signs bytes.
function Key:sign(text)
  local file = assert(io.open(self.dir .. "/text", "wb"))
  file:write(text)
  file:close()
  shell("openssl dgst -sha256 -sign %s/key.pem -out %s/signature %s/text", self.dir, self.dir, self.dir)
  local signature = slurp(self.dir .. "/signature")
  return self.algorithm == "ES256" and raw_signature(signature) or signature
end

--- A token with these claims; `header` differs from the usual one.
function Key:token(claims, header)
  local head = { alg = self.algorithm, kid = self.kid, typ = "JWT" }
  for name, value in pairs(header or {}) do
    head[name] = value ~= json.null and value or nil
  end
  local signed = crypto.base64url_encode(assert(json.encode(head))) .. "."
    .. crypto.base64url_encode(assert(json.encode(claims)))
  return signed .. "." .. crypto.base64url_encode(self:sign(signed))
end

function Key:close()
  program.remove(self.dir)
end

return M
