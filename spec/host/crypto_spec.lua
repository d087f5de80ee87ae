-- atelier.crypto: random bytes, secrets, text forms, and what holds for all of it. crypto_sealing_spec has digests and
-- ciphers, crypto_pkey_spec public keys.
local crypto = require "atelier.crypto"
local support = require "spec.support.crypto"

local refused, raises, file_of = support.refused, support.raises, support.file_of
local KEY, NONCE = ("k"):rep(32), ("n"):rep(12)

describe("atelier.crypto", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, crypto.live_handles())
  end)
  describe("random", function()
    it("gives as many bytes as asked for, and others each time", function()
      for _, n in ipairs { 0, 1, 32, 4096, 100000 } do
        assert.equal(n, #crypto.random(n))
        assert.equal(n, #crypto.random_secret(n))
      end
      assert.not_equal(crypto.random(32), crypto.random(32))
      assert.is_false(crypto.equal(crypto.random_secret(32), crypto.random_secret(32)))
    end)

    it("refuses impossible counts", function()
      for _, f in ipairs { crypto.random, crypto.random_secret } do
        raises("between 0 and 2%^30", f, -1)
        raises("between 0 and 2%^30", f, (1 << 30) + 1)
        raises("number expected", f)
        raises("no integer representation", f, 1.5)
      end
    end)
  end)

  describe("secret", function()
    it("holds bytes that only reveal shows", function()
      local secret = crypto.secret("to\0p")
      assert.equal("to\0p", secret:reveal())
      assert.equal(4, #secret)
      assert.equal("secret: 4 bytes", tostring(secret))
      assert.equal("to\0p", crypto.secret(secret):reveal())
      raises("attempt to concatenate", function()
        return "x" .. secret
      end)
      for _, name in ipairs { "hex", "base64_encode", "base64url_encode", "base32_encode" } do
        raises("string expected", crypto[name], secret)
      end
    end)

    it("is gone once it is closed", function()
      local secret = crypto.secret("top")
      secret:close()
      secret:close()
      assert.equal("secret: closed", tostring(secret))
      raises("secret is closed", secret.reveal, secret)
      raises("secret is closed", function()
        return #secret
      end)
      for _, f in ipairs { crypto.secret, crypto.sha256, crypto.signing_key } do
        raises("secret is closed", f, secret)
      end
      do
        local scoped <close> = crypto.secret("")
        secret = scoped
        assert.equal("", secret:reveal())
      end
      assert.equal("secret: closed", tostring(secret))
    end)

    it("raises on anything but bytes", function()
      raises("string or secret expected", crypto.secret, 1)
      raises("string or secret expected", crypto.secret)
      raises("secret expected", crypto.secret("x").reveal, "x")
    end)
  end)

  describe("text forms", function()
    local function every_byte()
      local t = {}
      for b = 0, 255 do
        t[b + 1] = string.char(b)
      end
      return table.concat(t)
    end
    local all = every_byte()

    it("agree with RFC 4648, section 10", function()
      local vectors = {
        [""] = "",
        f = "Zg==",
        fo = "Zm8=",
        foo = "Zm9v",
        foob = "Zm9vYg==",
        fooba = "Zm9vYmE=",
        foobar = "Zm9vYmFy",
      }
      for bytes, text in pairs(vectors) do
        assert.equal(text, crypto.base64_encode(bytes))
        assert.equal(bytes, crypto.base64_decode(text))
        assert.equal((text:gsub("=", "")), crypto.base64url_encode(bytes))
        assert.equal(bytes, crypto.base64url_decode((text:gsub("=", ""))))
      end
      assert.equal("666f6f626172", crypto.hex("foobar"))
    end)

    it("agree with RFC 7515, appendix C", function()
      assert.equal("A-z_4ME", crypto.base64url_encode("\3\236\255\224\193"))
      assert.equal("\3\236\255\224\193", crypto.base64url_decode("A-z_4ME"))
    end)

    it("come back as they were, at every length", function()
      for n = 0, #all do
        local bytes = all:sub(-n, -1)
        for _, pair in ipairs {
          { crypto.hex, crypto.unhex },
          { crypto.base64_encode, crypto.base64_decode },
          { crypto.base64url_encode, crypto.base64url_decode },
          { crypto.base32_encode, crypto.base32_decode },
        } do
          assert.equal(bytes, pair[2](pair[1](bytes)))
        end
      end
      local large = all:rep(1 << 12)
      assert.is_true(crypto.base64_decode(crypto.base64_encode(large)) == large)
    end)

    it("have one spelling each: base64", function()
      local padded = { "Zg=", "Zg", "Zg===", "Zm9v=", "====", "=", "Z===", "Z=g=", "Zg==Zg==" }
      local others = { "Zh==", "Zm9=", "Zg==\n", " Zg==", "Zm9v\0", "Zm9-" }
      for _, bad in ipairs(padded) do
        refused("encoding", crypto.base64_decode(bad))
      end
      for _, bad in ipairs(others) do
        refused("encoding", crypto.base64_decode(bad))
      end
      for _, bad in ipairs { "Z", "Zg==", "Zh", "Zm9", "Zm9vY", "Zm+v", "Zm/v", "Zm9v\0", "Zm 9v" } do
        refused("encoding", crypto.base64url_decode(bad))
      end
      assert.equal("\105\191\190", crypto.base64_decode("ab++"))
      refused("encoding", crypto.base64_decode("ab--"))
      local message = refused("encoding", crypto.base64_decode("Zm9vY*Fy"))
      assert.equal("base64_decode: character 6: this character is not in the alphabet", message)
    end)

    it("have one spelling each: hex, but for case", function()
      assert.equal("\171\205\239", crypto.unhex("aBcDEf"))
      assert.equal("", crypto.unhex(""))
      for _, bad in ipairs { "a", "abc", "0x", "g0", "0g", " a", "a\0", "@0", "`0", "/0", ":0", "G0" } do
        refused("encoding", crypto.unhex(bad))
      end
    end)

    it("read base32 the way people write it", function()
      assert.equal("00", crypto.base32_encode("\0"))
      assert.equal("ZW", crypto.base32_encode("\255"))
      assert.equal("CSQPYRK1E8", crypto.base32_encode("foobar"))
      assert.equal("91JPRV3F5GG7EVVJDHJ22", crypto.base32_encode("Hello, world!"))
      assert.equal("foobar", crypto.base32_decode("csqpy-rk1e8"))
      assert.equal("foobar", crypto.base32_decode("CSQPY-RKLE8"))
      assert.equal("foobar", crypto.base32_decode("-CSQPY--RKiE8-"))
      assert.equal("\0\0\0", crypto.base32_decode("0oO00"))
      assert.equal("", crypto.base32_decode("--"))
      for _, bad in ipairs { "0", "000", "000000", "01", "ZZ" } do
        refused("encoding", crypto.base32_decode(bad))
      end
      for _, bad in ipairs { "0u", "U0", "0 0", "00=", "00\0", "0_", "0@", "0[", "0`", "0{", "é0" } do
        refused("encoding", crypto.base32_decode(bad))
      end
    end)

    it("write the first 125 bits in 25 characters", function()
      local text = crypto.base32_encode(all:sub(-16)):sub(1, 25)
      local back = crypto.base32_decode(text .. "0")
      assert.equal(all:sub(-16, -2), back:sub(1, 15))
      assert.equal(all:byte(-1) & 0xf8, back:byte(16))
    end)

    it("raise on anything but strings", function()
      for _, name in ipairs { "hex", "unhex" } do
        raises("string expected", crypto[name], 12)
        raises("string expected", crypto[name])
      end
      for _, kind in ipairs { "base64", "base64url", "base32" } do
        raises("string expected", crypto[kind .. "_encode"], 12)
        raises("string expected", crypto[kind .. "_encode"])
        raises("string expected", crypto[kind .. "_decode"], 12)
        raises("string expected", crypto[kind .. "_decode"], {})
      end
    end)
  end)

  describe("equal", function()
    it("compares strings and secrets", function()
      assert.is_true(crypto.equal("", ""))
      assert.is_true(crypto.equal("a\0b", crypto.secret("a\0b")))
      assert.is_false(crypto.equal("a\0b", "a\0c"))
      assert.is_false(crypto.equal("a", "a\0"))
      assert.is_false(crypto.equal(crypto.secret("a"), crypto.secret("b")))
      raises("bad argument #2", crypto.equal, "1", 1)
      raises("bad argument #1", crypto.equal, nil, nil)
    end)
  end)

  describe("house rules", function()
    local files = { "lua_crypto.c", "crypto_core.h", "crypto_gcm.h", "crypto_hash.h", "crypto_keys.h" }

    it("documents each binding and binds each documented name", function()
      local bound, documented = {}, {}
      for _, name in ipairs(files) do
        local text = assert(io.open("host/" .. name)):read("a")
        for class, kind, body in text:gmatch("luaL_Reg ([%w_]+)_(%l+)%[%] = (%b{})") do
          if kind ~= "meta" then
            for key in body:gmatch('{"([%w_]+)",') do
              bound[#bound + 1] = kind == "methods" and class .. ":" .. key or key
            end
          end
        end
        for key in text:gmatch("\n@function ([%w_:]+)") do
          documented[#documented + 1] = key
        end
      end
      table.sort(bound)
      table.sort(documented)
      assert.same(bound, documented)
      local exported = {}
      for key in pairs(crypto) do
        exported[#exported + 1] = key
      end
      for _, key in ipairs(bound) do
        if not key:find(":", 1, true) then
          assert.is_function(crypto[key])
          exported[key] = true
        end
      end
      for _, key in ipairs(exported) do
        assert.is_true(exported[key])
      end
    end)

    -- One of everything that allocates.
    local function exercise()
      local seed = crypto.random_secret(32)
      local key = crypto.hkdf_sha256(seed, "salt", "info", 32)
      local ciphertext, tag = crypto.gcm_seal(key, NONCE, "aad", ("text"):rep(5000))
      assert(crypto.gcm_open(key, NONCE, "aad", ciphertext, tag))
      local hash = crypto.hash():update(ciphertext, tag)
      local signer = crypto.signing_key(seed)
      local digest = hash:copy():digest()
      local sig = signer:sign(digest)
      assert(crypto.ed25519_verify(signer:public(), digest, sig))
      local jwk = { kty = "OKP", crv = "Ed25519", x = crypto.base64url_encode(signer:public()) }
      assert(crypto.public_key(jwk):verify("EdDSA", digest, sig))
      assert(crypto.equal(signer:seed(), seed))
      local source, target <close> = file_of(ciphertext), file_of()
      assert(crypto.gcm_seal_file(key, NONCE, nil, source, target, { length = #ciphertext, hash = hash }))
      source:close()
      assert(crypto.sha256_file("/proc/self/exe"))
      return crypto.base64_decode(crypto.base64_encode(crypto.unhex(crypto.hex(digest))))
    end

    it("loses nothing whichever allocation fails", function()
      local oom = require "oom"
      assert.is_true(oom.run(exercise) > 20)
      assert.is_true(oom.run(function()
        package.loaded["atelier.crypto"] = nil
        assert(require("atelier.crypto").hash():update("x"):digest())
      end) > 20)
    end)

    it("holds under every mode of the collector", function()
      local previous = collectgarbage("generational")
      for _ = 1, 50 do
        exercise()
      end
      collectgarbage("incremental", 1, 1000)
      for _ = 1, 50 do
        exercise()
        collectgarbage("step")
      end
      collectgarbage("incremental", 200, 100)
      collectgarbage(previous)
    end)

    it("never uses a secret that a finaliser closes meanwhile", function()
      local text = ("x"):rep(100000)
      local want = crypto.gcm_seal(KEY, NONCE, nil, text)
      collectgarbage("incremental", 1, 1000)
      for _ = 1, 300 do
        local secret = crypto.secret(KEY)
        setmetatable({}, { __gc = function()
          secret:close()
        end })
        local ok, got = pcall(crypto.gcm_seal, secret, NONCE, nil, text)
        if ok then
          assert.is_true(got == want)
        else
          assert.matches("secret is closed", got)
        end
      end
      collectgarbage("incremental", 200, 100)
    end)

    it("lives in several states and survives a second require", function()
      package.loaded["atelier.crypto"] = nil
      local again = require "atelier.crypto"
      assert.equal(crypto.sha256("x"), again.sha256(again.secret("x")))
      assert.equal(crypto.sha256("x"), crypto.hash():update("x"):digest())
    end)
  end)
end)
