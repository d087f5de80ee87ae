local auth = require "api.auth"
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local keys = require "spec.api.support.keys"
local problem = require "api.problem"
local token = require "api.token"

local SECRET = "a secret that only the specs know"
local NOW = 1800000000
local USER = "3f0c2b6e-7c1d-4e0a-9a59-0f6f3a1f2b11"

local function claims(changes)
  local all = { sub = USER, role = "authenticated", aud = "authenticated", iat = NOW - 10, exp = NOW + 3600 }
  for name, value in pairs(changes or {}) do
    all[name] = value ~= json.null and value or nil
  end
  return all
end

-- A token of any text: header, claims and signature as they are given.
local function raw(header, body, secret)
  local signed = crypto.base64url_encode(header) .. "." .. crypto.base64url_encode(body)
  return signed .. "." .. crypto.base64url_encode(crypto.hmac_sha256(secret or SECRET, signed))
end

local HEADER = '{"alg":"HS256","typ":"JWT"}'

describe("api.auth", function()
  local now, verifier
  before_each(function()
    now = NOW
    verifier = auth.new { secret = crypto.secret(SECRET), clock = function() return now end }
  end)

  local function ask(header, kind)
    local ok, result = pcall(verifier.require, verifier, header, kind or "user")
    if ok then return result end
    assert.is_true(problem.is(result), tostring(result))
    return nil, result.status, result.code, result
  end

  local function refused(status, code, text, kind)
    local got, is, word = ask("Bearer " .. text, kind)
    assert.is_nil(got)
    assert.same({ status, code }, { is, word })
  end

  it("knows a user by a good token, however the scheme is written", function()
    local text = token.sign(SECRET, claims { email = "someone@spec.invalid" })
    for _, scheme in ipairs { "Bearer ", "bearer ", "BeArEr ", "Bearer  ", "Bearer     " } do
      local user = ask(scheme .. text)
      assert.equal(USER, user.id)
      assert.equal("authenticated", user.role)
      assert.equal("someone@spec.invalid", user.claims.email)
      assert.equal("someone@spec.invalid", json.decode(user.text).email)
      assert.is_nil(user.nothing)
    end
  end)

  it("asks for a token where there is none", function()
    local _, status, code, fault = ask(nil)
    assert.same({ 401, "no_token" }, { status, code })
    assert.equal('Bearer realm="atelier"', fault.headers["WWW-Authenticate"])
    for _, header in ipairs { "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer a b", "Bearer  a  b", "Bearer\ta", "Token x" } do
      _, status, code, fault = ask(header)
      assert.same({ 401, "bad_token" }, { status, code })
      assert.matches('error="invalid_token"', fault.headers["WWW-Authenticate"])
    end
  end)

  it("refuses every form that is not exactly a token's", function()
    local good = token.sign(SECRET, claims())
    local head, body, mac = good:match "^(.-)%.(.-)%.(.-)$"
    for _, text in ipairs { "x", "..", "...", head .. "." .. body, head .. "." .. body .. ".", good .. "." .. mac, good .. "=",
      head .. "=." .. body .. "." .. mac, head .. "+." .. body .. "." .. mac, "." .. body .. "." .. mac, good:sub(1, -2),
      good:gsub("%.", "..", 1), raw("[]", "{}"), raw('"HS256"', "{}"), raw(HEADER, "[]"), raw(HEADER, "null"), raw(HEADER, ""),
      raw("", "{}"), raw(HEADER, '{"sub":"a"'), raw(HEADER, '{"sub":"\xff"}'), ("x"):rep(9000) .. good,
      raw(HEADER, ('{"a":'):rep(100) .. "1" .. ("}"):rep(100)) } do
      refused(401, "bad_token", text)
    end
  end)

  it("refuses JSON that says a thing twice", function()
    local body = assert(json.encode(claims()))
    assert.is_table(ask("Bearer " .. raw(HEADER, body)))
    refused(401, "bad_token", raw(HEADER, '{"role":"anon",' .. body:sub(2)))
    refused(401, "bad_token", raw('{"alg":"none","alg":"HS256"}', body))
    refused(401, "bad_token", raw(HEADER, body:sub(1, -2) .. ',"x":{"a":1,"a":2}}'))
  end)

  it("refuses a NUL, which the database cannot hold", function()
    refused(401, "bad_token", raw(HEADER, assert(json.encode(claims { name = "a\0b" }))))
  end)

  it("refuses a token of more than 8 KiB", function()
    local long = token.sign(SECRET, claims { filler = ("x"):rep(5800) })
    assert.is_true(#long > 7800 and #long <= 8192)
    assert.is_table(ask("Bearer " .. long))
    refused(401, "bad_token", token.sign(SECRET, claims { filler = ("x"):rep(6200) }))
  end)

  it("refuses other algorithms, whatever their signature", function()
    local body = assert(json.encode(claims()))
    for _, alg in ipairs { '"none"', '"None"', '"NONE"', '""', '"hs256"', '"HS384"', '"HS512"', '"ES256"', '"RS256"', '"PS256"',
      '"EdDSA"', "null", "1", '["HS256"]', '{"a":1}', '"__index"', '"new"' } do
      refused(401, "bad_token", raw('{"alg":' .. alg .. ',"kid":"a"}', body))
    end
    refused(401, "bad_token", raw("{}", body))
    local signed = crypto.base64url_encode '{"alg":"none"}' .. "." .. crypto.base64url_encode(body)
    refused(401, "bad_token", signed .. ".")
    refused(401, "bad_token", signed .. ".AA")
  end)

  it("refuses critical extensions, even empty ones", function()
    local body = assert(json.encode(claims()))
    for _, crit in ipairs { '["exp"]', "[]", "null", '"b64"' } do
      refused(401, "bad_token", raw('{"alg":"HS256","crit":' .. crit .. "}", body))
    end
  end)

  it("takes no key from the token", function()
    local body = assert(json.encode(claims()))
    local header = '{"alg":"HS256","jwk":{"kty":"oct","k":"c2VjcmV0"},"jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/"}'
    assert.is_table(ask("Bearer " .. raw(header, body)))
    refused(401, "bad_token", raw(header, body, "secret"))
  end)

  it("takes HS256 with a kid that nobody knows, as projects write it", function()
    assert.is_table(ask("Bearer " .. raw('{"alg":"HS256","kid":"IBZabc","typ":"JWT"}', assert(json.encode(claims())))))
  end)

  it("refuses a signature of another key, and a changed token", function()
    refused(401, "bad_token", token.sign("another secret of some length", claims()))
    refused(401, "bad_token", token.sign(SECRET .. "x", claims()))
    local good = token.sign(SECRET, claims())
    local head, _, mac = good:match "^(.-)%.(.-)%.(.-)$"
    refused(401, "bad_token", head .. "." .. crypto.base64url_encode(assert(json.encode(claims { role = "service_role" }))) .. "." .. mac)
    refused(401, "bad_token", head .. "." .. good:match "%.(.-)%." .. "." .. crypto.base64url_encode(("\0"):rep(32)))
  end)

  it("refuses HS256 signed with a public key", function()
    local rsa = keys.new("RS256", "rsa-1")
    local with_keys = { find = function() return assert(crypto.public_key(rsa.pem)) end, has = function() return true end }
    verifier = auth.new { secret = SECRET, keys = with_keys, clock = function() return now end }
    local body = assert(json.encode(claims()))
    for _, secret in ipairs { rsa.pem, rsa.pem:gsub("\n$", ""), assert(json.encode(rsa.jwk)), rsa.jwk.n } do
      refused(401, "bad_token", raw('{"alg":"HS256","kid":"rsa-1"}', body, secret))
    end
    -- Without a secret HS256 is no algorithm at all.
    verifier = auth.new { keys = with_keys, clock = function() return now end }
    refused(401, "bad_token", raw('{"alg":"HS256","kid":"rsa-1"}', body, rsa.pem))
    -- The key is RSA: its own algorithm alone.
    assert.is_table(ask("Bearer " .. rsa:token(claims())))
    refused(401, "bad_token", rsa:token(claims(), { alg = "ES256" }))
    refused(401, "bad_token", rsa:token(claims(), { kid = json.null }))
    refused(401, "bad_token", rsa:token(claims(), { kid = 5 }))
    rsa:close()
  end)

  it("goes by the clock, with half a minute of leeway", function()
    local function at(time, changes)
      now = time
      return select(3, ask("Bearer " .. token.sign(SECRET, claims(changes)))) or "good"
    end
    assert.equal("good", at(NOW + 3600 + 29))
    assert.equal("token_expired", at(NOW + 3600 + 30))
    assert.equal("token_expired", at(NOW, { exp = 0 }))
    assert.equal("token_expired", at(NOW, { exp = -1 }))
    assert.equal("bad_token", at(NOW, { exp = json.null }))
    assert.equal("good", at(NOW, { exp = NOW + 0.5 }))
    assert.equal("good", at(NOW, { nbf = NOW + 30 }))
    assert.equal("token_early", at(NOW, { nbf = NOW + 31 }))
    assert.equal("good", at(NOW, { iat = NOW + 600 }))
    assert.equal("good", at(NOW, { iat = json.null }))
    for _, name in ipairs { "exp", "nbf", "iat" } do
      for _, value in ipairs { "1900000000", true, {}, 1e300, json.array {} } do
        assert.equal("bad_token", at(NOW, { [name] = value }))
      end
    end
  end)

  it("forgets a token that it has seen when its time is over, or not yet come", function()
    local text = "Bearer " .. token.sign(SECRET, claims { nbf = NOW })
    assert.is_table(ask(text))
    now = NOW + 3600 + 30
    assert.same({ 401, "token_expired" }, { select(2, ask(text)) and select(2, ask(text)), (select(3, ask(text))) })
    now = NOW
    assert.is_table(ask(text))
    now = NOW - 31
    assert.equal("token_early", (select(3, ask(text))))
  end)

  it("wants the audience, alone or in a list", function()
    local function with(aud) return token.sign(SECRET, claims { aud = aud }) end
    assert.is_table(ask("Bearer " .. with(json.array { "other", "authenticated" })))
    for _, aud in ipairs { "other", "authenticate", "", json.array {}, json.array { "other" }, json.array { 1 }, 1, true,
      { authenticated = true }, json.null } do
      refused(401, "bad_token", with(aud))
    end
    verifier = auth.new { secret = SECRET, audience = "mine", clock = function() return now end }
    assert.is_table(ask("Bearer " .. with "mine"))
    refused(401, "bad_token", with "authenticated")
  end)

  it("wants the issuer, when one is configured", function()
    local issuer = "https://ref.example/auth/v1"
    assert.is_table(ask("Bearer " .. token.sign(SECRET, claims { iss = "anybody" })))
    verifier = auth.new { secret = SECRET, issuer = issuer, clock = function() return now end }
    assert.is_table(ask("Bearer " .. token.sign(SECRET, claims { iss = issuer })))
    for _, iss in ipairs { issuer .. "/", "supabase", 1, json.array { issuer }, json.null } do
      refused(401, "bad_token", token.sign(SECRET, claims { iss = iss }))
    end
    -- The project's legacy key.
    local legacy = { iss = "supabase", ref = "ref", role = "service_role", iat = NOW - 10, exp = NOW + 1000 }
    assert.is_table(ask("Bearer " .. token.sign(SECRET, legacy), "operator"))
    refused(401, "bad_token", token.sign(SECRET, { iss = "other", role = "service_role", exp = NOW + 1000 }), "operator")
  end)

  it("wants a subject that is a UUID", function()
    for _, sub in ipairs { "", "1", "not-a-uuid", USER .. "0", USER:gsub("-", ""), "{" .. USER .. "}", USER .. "\n", 1, true, {},
      json.null } do
      refused(401, "bad_token", token.sign(SECRET, claims { sub = sub }))
    end
    assert.equal(USER, ask("Bearer " .. token.sign(SECRET, claims { sub = USER:upper() })).id)
  end)

  it("tells users, operators and nobodies apart", function()
    local now_and_later = { iat = NOW, exp = NOW + 1000 }
    local function of(role, more)
      local all = { role = role, iss = "supabase" }
      for name, value in pairs(now_and_later) do all[name] = value end
      for name, value in pairs(more or {}) do all[name] = value end
      return token.sign(SECRET, all)
    end
    local person = { sub = USER, aud = "authenticated" }
    -- The public key of a project, with or without what would make it look like a user's token.
    refused(401, "not_signed_in", of "anon")
    refused(401, "not_signed_in", of("anon", person))
    refused(401, "not_signed_in", of "anon", "operator")
    refused(403, "wrong_role", of "service_role")
    refused(403, "wrong_role", of("service_role", person))
    refused(403, "wrong_role", of("authenticated", person), "operator")
    for _, role in ipairs { "postgres", "supabase_admin", "", "Authenticated", 1, true, {} } do
      refused(403, "wrong_role", of(role, person))
      refused(403, "wrong_role", of(role, person), "operator")
    end
    refused(403, "wrong_role", of(nil, person))
    refused(401, "bad_token", of "authenticated") -- a user without subject and audience
    local operator = ask("Bearer " .. of "service_role", "operator")
    assert.equal("service_role", operator.role)
    assert.is_nil(operator.id)
  end)

  it("tells nothing of a token in what it refuses", function()
    local text = token.sign("another secret of some length", claims())
    local _, _, _, fault = ask("Bearer " .. text)
    local told = fault:body() .. tostring(fault) .. fault.headers["WWW-Authenticate"]
    for piece in text:gmatch "[^.]+" do
      assert.is_nil(told:find(piece, 1, true))
    end
  end)

  it("remembers a bounded number of tokens", function()
    for i = 1, 9000 do
      assert(ask("Bearer " .. token.sign(SECRET, claims { n = i })))
    end
    local count = 0
    for _, set in ipairs { verifier.recent, verifier.former } do
      for digest in pairs(set) do
        assert.equal(32, #digest)
        count = count + 1
      end
    end
    assert.is_true(count <= 8192 and count > 4096)
  end)

  it("refuses a NUL, which the database cannot hold, and no text that only looks like one", function()
    for text, is_good in pairs { ["a\0b"] = false, ["\\\0"] = false, ["\\u0000"] = true, ["\\\\u0000"] = true, ["u0000"] = true } do
      local one = token.sign(SECRET, claims { note = text })
      if is_good then
        assert.equal(text, ask("Bearer " .. one).claims.note)
      else
        refused(401, "bad_token", one)
      end
    end
  end)
end)
