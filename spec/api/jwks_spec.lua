local crypto = require "atelier.crypto"
local httpd = require "atelier.httpd"
local httpd_child = require "spec.support.httpd_child"
local json = require "atelier.json"
local jwks = require "api.jwks"
local keys = require "spec.api.support.keys"
local log = require "log"
local problem = require "api.problem"
local auth = require "api.auth"

-- An issuer in a process of its own. What it answers lies in a file, so that a spec can change it; 999 never answers.
local Issuer = {}
Issuer.__index = Issuer

function Issuer:says(status, body, headers)
  local text = assert(json.encode { status = status, body = body, headers = headers or {} })
  local file <close> = assert(io.open(self.path, "w"))
  file:write(text)
end

function Issuer:asked()
  return select(2, self.child:log():gsub("asked\n", ""))
end

function Issuer:close()
  self.child:stop()
  os.remove(self.path)
end

local function issuer()
  local it = setmetatable({ path = os.tmpname() }, Issuer)
  it:says(200, '{"keys":[]}')
  it.child = httpd_child.start { drain = 0.1, limits = { slice_ms = 20000 }, run = { handler = function(request, _, log_file)
    log_file:write "asked\n"
    local file <close> = assert(io.open(it.path))
    local answer = assert(json.decode(file:read "a"))
    if answer.status == 999 then
      httpd.sleep(600)
    end
    request:respond { status = answer.status, body = answer.body, headers = answer.headers }
  end } }
  it.url = ("http://127.0.0.1:%d/auth/v1/.well-known/jwks.json"):format(it.child.port)
  return it
end

local function set(...)
  local list = json.array {}
  for i, key in ipairs { ... } do list[i] = type(key) == "table" and key.jwk or key end
  return assert(json.encode { keys = list })
end

describe("api.jwks", function()
  local ec, other, rsa, source, real_now, ahead, frozen
  setup(function()
    ec, other, rsa = keys.new("ES256", "ec-1"), keys.new("ES256", "ec-2"), keys.new("RS256", "rsa-1")
    log.configure { level = "error" }
    real_now = httpd.now
    httpd.now = function() return (frozen or real_now()) + ahead end -- luacheck: ignore 122
  end)
  teardown(function()
    httpd.now = real_now -- luacheck: ignore 122
    for _, key in ipairs { ec, other, rsa } do key:close() end
  end)
  before_each(function()
    source, ahead, frozen = issuer(), 0, nil
  end)
  after_each(function()
    source:close()
  end)

  local function inside(f)
    local server = assert(httpd.listen { limits = { slice_ms = 20000 } })
    local failure
    assert(server:run { handler = function() end, on_start = function()
      local ok, message = xpcall(f, debug.traceback)
      if not ok then failure = message end
      server:stop()
    end })
    assert(not failure, failure)
  end

  local function code(set_of, kid)
    local key, why = set_of:find(kid)
    return key and "good" or why
  end

  it("fetches keys when they are needed, once, and tells them by id", function()
    source:says(200, set(ec, rsa))
    inside(function()
      local it = assert(jwks.new(source.url))
      assert.equal(0, source:asked())
      assert.equal("ES256", it:find("ec-1"):algorithm())
      assert.equal("RS256", it:find("rsa-1"):algorithm())
      assert.equal("unknown", code(it, "ec-9"))
      assert.equal(1, source:asked())
      assert.is_true(it:has("ec-1", it:find "ec-1"))
      assert.is_false(it:has("ec-1", it:find "rsa-1"))
    end)
  end)

  it("lets all who come at once wait for one answer", function()
    source:says(200, set(ec))
    inside(function()
      local it, main, left = assert(jwks.new(source.url)), httpd.current(), 20
      for _ = 1, 20 do
        httpd.spawn(function()
          assert(it:find "ec-1")
          left = left - 1
          if left == 0 then main:wake(true) end
        end)
      end
      assert(httpd.park(60))
      assert.equal(1, source:asked())
    end)
  end)

  it("asks again for an unknown key, but not more than once in half a minute", function()
    source:says(200, set(ec))
    inside(function()
      local it = assert(jwks.new(source.url))
      assert.equal("good", code(it, "ec-1"))
      source:says(200, set(ec, other))
      for i = 1, 50 do assert.equal("unknown", code(it, "made-up-" .. i)) end
      assert.equal("unknown", code(it, "ec-2"))
      assert.equal(1, source:asked())
      ahead = 31
      assert.equal("good", code(it, "ec-2"))
      assert.equal(2, source:asked())
      for i = 1, 50 do assert.equal("unknown", code(it, "made-up-" .. i)) end
      assert.equal(2, source:asked())
    end)
  end)

  it("keeps keys for a while when the issuer fails, not for ever", function()
    source:says(200, set(ec), { ["Cache-Control"] = "public, max-age=600" })
    inside(function()
      local it = assert(jwks.new(source.url))
      local key = assert(it:find "ec-1")
      for _, answer in ipairs { { 500, "" }, { 200, "no json" }, { 200, "[]" }, { 302, "", { Location = source.url } },
        { 200, ("x"):rep(100000) } } do
        source:says(table.unpack(answer))
        ahead = ahead + 605
        assert.equal("good", code(it, "ec-1"))
        assert.is_true(it:has("ec-1", key))
        while it.is_asking do httpd.sleep(0.01) end
      end
      assert.equal("unknown", code(it, "ec-2"))
      ahead = 600 + 3600 + 1
      assert.equal("unavailable", code(it, "ec-1"))
      assert.is_false(it:has("ec-1", key))
      source:says(200, set(ec))
      ahead = ahead + 31
      assert.equal("good", code(it, "ec-1"))
    end)
  end)

  it("forgets a key that the issuer has withdrawn, and one that was replaced under its id", function()
    source:says(200, set(ec, rsa))
    inside(function()
      local it = assert(jwks.new(source.url))
      local first, second = it:find "ec-1", it:find "rsa-1"
      local changed = json.decode(json.encode(other.jwk))
      changed.kid = "ec-1"
      source:says(200, set(changed))
      ahead = 601
      assert.is_true(it:has("ec-1", first)) -- and asks
      while it.is_asking do httpd.sleep(0.01) end
      assert.is_false(it:has("ec-1", first))
      assert.is_false(it:has("rsa-1", second))
      assert.equal("unknown", code(it, "rsa-1"))
    end)
  end)

  it("says that nobody can tell when there never was an answer, and soon asks again", function()
    source:says(500, "")
    inside(function()
      local it = assert(jwks.new(source.url))
      frozen = real_now() -- between the two questions no second passes
      assert.equal("unavailable", code(it, "ec-1"))
      assert.equal("unavailable", code(it, "ec-1"))
      assert.equal(1, source:asked())
      source:says(200, set(ec))
      ahead = 1.1
      assert.equal("good", code(it, "ec-1"))
    end)
  end)

  it("passes over keys that are not for this", function()
    local private = { kty = "oct", kid = "oct", k = "c2VjcmV0" }
    local function variant(changes)
      local jwk = json.decode(json.encode(ec.jwk))
      for name, value in pairs(changes) do jwk[name] = value ~= json.null and value or nil end
      return jwk
    end
    source:says(200, set(private, variant { kid = "enc", use = "enc" }, variant { kid = "sign", key_ops = json.array { "sign" } },
      variant { kid = "ops", key_ops = json.array { "verify" }, use = json.null }, variant { kid = "wrong", alg = "RS256" },
      variant { kid = "curve", crv = "P-384" }, variant { kid = "off", x = rsa.jwk.e }, variant { kid = json.null },
      variant { kid = 7 }, variant { kid = ("k"):rep(300) }, "text", 5, ec))
    inside(function()
      local it = assert(jwks.new(source.url))
      assert.equal("good", code(it, "ec-1"))
      assert.equal("good", code(it, "ops"))
      for _, kid in ipairs { "oct", "enc", "sign", "wrong", "curve", "off", ("k"):rep(300) } do
        assert.equal("unknown", code(it, kid))
      end
    end)
  end)

  it("refuses an answer that has two keys of one id, or too many", function()
    source:says(200, set(ec, ec))
    inside(function()
      assert.equal("unavailable", code(assert(jwks.new(source.url)), "ec-1"))
      local many = {}
      for i = 1, 101 do many[i] = { kty = "oct", kid = "k" .. i, k = "AA" } end
      source:says(200, set(table.unpack(many)))
      assert.equal("unavailable", code(assert(jwks.new(source.url)), "ec-1"))
    end)
  end)

  it("lets the loop go on while an issuer hangs", function()
    source:says(999, "")
    inside(function()
      local it, turns, over = assert(jwks.new(source.url)), 0, false
      httpd.spawn(function()
        while not over do
          httpd.sleep(0.01)
          turns = turns + 1
        end
      end)
      assert.equal("unavailable", code(it, "ec-1"))
      over = true
      assert.is_true(turns > 10)
    end)
  end)

  it("takes https, and http on this machine alone", function()
    for _, url in ipairs { "https://ref.example/keys", "http://127.0.0.1:8000/keys", "http://localhost/keys", "http://[::1]:80/k" } do
      assert(jwks.new(url))
    end
    for _, url in ipairs { "http://ref.example/keys", "http://127.0.0.1.example/", "http://localhost.example/", "ftp://localhost/",
      "file:///etc/passwd", "", "https://", "https://user:secret@ref.example/", "http://127.0.0.1@ref.example/" } do
      local it, message, why = jwks.new(url)
      assert.is_nil(it, url)
      assert.equal("config", why)
      assert.is_nil(message:find("secret", 1, true))
    end
  end)

  it("verifies ES256 and RS256 tokens by them, and no longer when the key is gone", function()
    source:says(200, set(ec, rsa))
    inside(function()
      local now = os.time()
      local good = { sub = "3f0c2b6e-7c1d-4e0a-9a59-0f6f3a1f2b11", role = "authenticated", aud = "authenticated", exp = now + 3600 }
      local verifier = auth.new { keys = assert(jwks.new(source.url)) }
      local function ask(text)
        local ok, raised = pcall(verifier.require, verifier, "Bearer " .. text, "user")
        assert(ok or problem.is(raised), raised)
        return ok and "good" or raised.code
      end
      local by_ec, by_rsa = ec:token(good), rsa:token(good)
      for _ = 1, 2 do
        assert.equal("good", ask(by_ec))
        assert.equal("good", ask(by_rsa))
      end
      assert.equal("bad_token", ask(ec:token(good, { kid = "rsa-1" })))
      assert.equal("bad_token", ask(ec:token(good, { kid = "unknown" })))
      assert.equal("bad_token", ask(other:token(good, { kid = "ec-1" })))
      assert.equal("bad_token", ask(ec:token(good, { alg = "RS256" })))
      assert.equal("bad_token", ask(by_ec:sub(1, -5) .. "AAAA"))
      local head, body = by_ec:match "^(.-)%.(.-)%."
      local der = "0" .. ("\2"):rep(70) -- as other libraries write it
      assert.equal("bad_token", ask(head .. "." .. body .. "." .. crypto.base64url_encode(der)))
      assert.equal("bad_token", ask(head .. "." .. body .. "." .. crypto.base64url_encode(("\0"):rep(64))))
      source:says(200, set(rsa))
      ahead = 601
      assert.equal("good", ask(by_ec)) -- stale, and asks
      while verifier.keys.is_asking do httpd.sleep(0.01) end
      assert.equal("bad_token", ask(by_ec))
      assert.equal("good", ask(by_rsa))
      source:says(500, "")
      ahead = 601 + 600 + 3601
      assert.equal("keys_unavailable", ask(by_rsa))
    end)
  end)
end)
