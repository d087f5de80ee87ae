-- atelier.crypto: Ed25519, and the public keys that verify tokens.
local crypto = require "atelier.crypto"
local support = require "spec.support.crypto"

local hex = crypto.hex
local x, b64u, refused, raises = support.x, support.b64u, support.refused, support.raises
local KEY = ("k"):rep(32)

describe("atelier.crypto", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, crypto.live_handles())
  end)
  describe("Ed25519", function()
    -- RFC 8032, section 7.1: TEST 1, 2, 3 and SHA(abc).
    local vectors = {
      {
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        [[e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
          5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b]],
      },
      {
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        [[92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
          085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00]],
      },
      {
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        [[6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac
          18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a]],
      },
      {
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        [[ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a
          2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f]],
        [[dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589
          09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704]],
      },
    }

    it("agrees with RFC 8032", function()
      for _, v in ipairs(vectors) do
        local key = crypto.signing_key(x(v[1]))
        assert.equal(v[2], hex(key:public()))
        assert.equal(hex(x(v[4])), hex(key:sign(x(v[3]))))
        assert.is_true(crypto.ed25519_verify(x(v[2]), x(v[3]), x(v[4])))
        assert.equal(v[1], hex(key:seed():reveal()))
        assert.equal(v[2], hex(crypto.signing_key(crypto.secret(x(v[1]))):public()))
      end
    end)

    it("refuses every changed signature, text and key", function()
      local public, text, sig = x(vectors[3][2]), x(vectors[3][3]), x(vectors[3][4])
      for at = 1, 64 do
        local changed = sig:sub(1, at - 1) .. string.char(sig:byte(at) ~ 1) .. sig:sub(at + 1)
        assert.is_false(crypto.ed25519_verify(public, text, changed))
      end
      assert.is_false(crypto.ed25519_verify(public, text .. "\0", sig))
      assert.is_false(crypto.ed25519_verify(x(vectors[2][2]), text, sig))
      for _, bad in ipairs { "", "x", sig:sub(1, 63), sig .. "\0", sig .. sig } do
        assert.is_false(crypto.ed25519_verify(public, text, bad))
      end
    end)

    it("refuses a signature whose S is not reduced", function()
      local public, text, sig = x(vectors[1][2]), "", x(vectors[1][4])
      -- S + L, with L the order of the group: RFC 8032 section 5.1.7 asks for S < L, else signatures are malleable.
      local order = x "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"
      local carry, sum = 0, {}
      for i = 1, 32 do
        local v = sig:byte(32 + i) + order:byte(i) + carry
        sum[i], carry = string.char(v & 255), v >> 8
      end
      assert.is_false(crypto.ed25519_verify(public, text, sig:sub(1, 32) .. table.concat(sum)))
    end)

    it("makes new keys", function()
      local key, other = crypto.signing_key(), crypto.signing_key(nil)
      assert.not_equal(key:public(), other:public())
      local sig = key:sign("a\0b")
      assert.is_true(crypto.ed25519_verify(key:public(), "a\0b", sig))
      assert.is_false(crypto.ed25519_verify(key:public(), "a", sig))
      assert.equal(sig, crypto.signing_key(key:seed()):sign(crypto.secret("a\0b")))
      assert.equal("signing_key: Ed25519", tostring(key))
    end)

    it("raises on wrong sizes, types and closed keys", function()
      raises("seed must have 32 bytes", crypto.signing_key, "short")
      raises("seed must have 32 bytes", crypto.signing_key, ("s"):rep(64))
      raises("string or secret expected", crypto.signing_key, 1)
      raises("public key must have 32 bytes", crypto.ed25519_verify, "short", "", "")
      raises("bad argument #3", crypto.ed25519_verify, KEY, "", nil)
      local key = crypto.signing_key()
      key:close()
      key:close()
      assert.equal("signing_key: closed", tostring(key))
      for _, name in ipairs { "sign", "public", "seed" } do
        raises("signing key is closed", key[name], key, "text")
        raises("signing_key expected", key[name], "text")
      end
      do
        local scoped <close> = crypto.signing_key()
        key = scoped
        raises("bad argument #1 to 'sign'", function()
          key:sign()
        end)
      end
      raises("signing key is closed", key.public, key)
    end)
  end)

  describe("public_key", function()
    -- RFC 7515, appendix A.2 and A.3; RFC 8037, appendix A.
    local payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    local rsa = {
      kty = "RSA",
      n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
        .. "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
        .. "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
        .. "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
      e = "AQAB",
    }
    local ec = {
      kty = "EC",
      crv = "P-256",
      x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
      y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    local okp = { kty = "OKP", crv = "Ed25519", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }
    local examples = {
      {
        jwk = rsa,
        alg = "RS256",
        text = "eyJhbGciOiJSUzI1NiJ9." .. payload,
        sig = b64u(
          "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9"
            .. "uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB"
            .. "_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rq"
            .. "Vt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        ),
      },
      {
        jwk = ec,
        alg = "ES256",
        text = "eyJhbGciOiJFUzI1NiJ9." .. payload,
        sig = b64u("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
      },
      {
        jwk = okp,
        alg = "EdDSA",
        text = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        sig = b64u("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"),
      },
    }

    local function with(jwk, changes)
      local copy = {}
      for _, t in ipairs { jwk, changes } do
        for k, v in pairs(t) do
          copy[k] = v
        end
      end
      return copy
    end

    local function der(tag, body)
      local n = #body
      local size = n < 128 and string.char(n) or n < 256 and "\x81" .. string.char(n) or "\x82" .. string.pack(">I2", n)
      return string.char(tag) .. size .. body
    end

    local function rsa_der(n, e)
      local numbers = der(0x30, der(2, "\0" .. n) .. der(2, e))
      return der(0x30, x "300d06092a864886f70d0101010500" .. der(3, "\0" .. numbers))
    end

    local function ec_der(point)
      return x "3059301306072a8648ce3d020106082a8648ce3d030107034200" .. point
    end

    local function pem(bytes, name)
      local text = crypto.base64_encode(bytes):gsub(("."):rep(64), "%0\n"):gsub("\n$", "")
      name = name or "PUBLIC KEY"
      return "-----BEGIN " .. name .. "-----\n" .. text .. "\n-----END " .. name .. "-----\n"
    end

    local ders = {
      RS256 = rsa_der(b64u(rsa.n), b64u(rsa.e)),
      ES256 = ec_der("\4" .. b64u(ec.x) .. b64u(ec.y)),
      EdDSA = x "302a300506032b6570032100" .. b64u(okp.x),
    }

    it("verifies the examples of RFC 7515 and RFC 8037 from JWK, DER and PEM", function()
      for _, v in ipairs(examples) do
        for _, form in ipairs { v.jwk, ders[v.alg], pem(ders[v.alg]) } do
          local key = assert(crypto.public_key(form))
          assert.equal(v.alg, key:algorithm())
          assert.equal("public_key: " .. v.alg, tostring(key))
          assert.is_true(key:verify(v.alg, v.text, v.sig))
          assert.is_true(key:verify(v.alg, crypto.secret(v.text), v.sig))
          assert.is_false(key:verify(v.alg, v.text .. "x", v.sig))
          assert.is_false(key:verify(v.alg, v.text .. "\0", v.sig))
          for _, at in ipairs { 1, 32, 33, 63, #v.sig } do
            local changed = v.sig:sub(1, at - 1) .. string.char(v.sig:byte(at) ~ 4) .. v.sig:sub(at + 1)
            assert.is_false(key:verify(v.alg, v.text, changed))
          end
          local bads = { "", v.sig:sub(1, -2), v.sig .. "\0", ("\0"):rep(64), ("\255"):rep(64), ("\255"):rep(256) }
          for _, bad in ipairs(bads) do
            assert.is_false(key:verify(v.alg, v.text, bad))
          end
        end
      end
    end)

    it("agrees with RFC 7515, appendix A.1, through HMAC", function()
      local key = b64u("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
      local mac = crypto.hmac_sha256(key, "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." .. payload)
      assert.equal("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", crypto.base64url_encode(mac))
    end)

    it("lets the key alone decide the algorithm", function()
      for _, v in ipairs(examples) do
        local key = crypto.public_key(v.jwk)
        for _, alg in ipairs { "RS256", "ES256", "EdDSA", "HS256", "none", "", "rs256", v.alg .. "\0", v.alg .. "x" } do
          if alg ~= v.alg then
            local message = refused("wrong_algorithm", key:verify(alg, v.text, v.sig))
            assert.equal("public_key:verify: algorithm: this key verifies " .. v.alg .. " only", message)
          end
        end
      end
    end)

    it("does not take ECDSA signatures in DER", function()
      local sig = examples[2].sig
      local encoded = der(0x30, der(2, sig:sub(1, 32)) .. der(2, "\0" .. sig:sub(33)))
      assert.is_false(crypto.public_key(ec):verify("ES256", examples[2].text, encoded))
    end)

    it("gives the raw bytes of an Ed25519 key only", function()
      assert.equal(b64u(okp.x), crypto.public_key(okp):raw())
      refused("wrong_algorithm", crypto.public_key(ec):raw())
      refused("wrong_algorithm", crypto.public_key(rsa):raw())
    end)

    it("passes over the members of a JWK that it does not need", function()
      assert(crypto.public_key(with(ec, { kid = "1", use = "sig", alg = "ES256", key_ops = { "verify" }, ext = true })))
      assert(crypto.public_key(with(okp, { d = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A" })))
      assert(crypto.public_key(with(rsa, { alg = "RS256" })))
    end)

    it("refuses a JWK that is not fit", function()
      local function bad(pattern, jwk)
        assert.matches("^public_key: key: .*" .. pattern, refused("bad_key", crypto.public_key(jwk)))
      end
      bad("kty", {})
      bad("kty", { kty = "oct", k = "c2VjcmV0" })
      bad("kty", { kty = 5 })
      bad("kty", { kty = "RSA\0" })
      bad("not for signatures", with(rsa, { use = "enc" }))
      bad("algorithm", with(rsa, { alg = "RS512" }))
      bad("algorithm", with(ec, { alg = "HS256" }))
      bad("algorithm", with(okp, { alg = 1 }))
      bad("P%-256", with(ec, { crv = "P-384" }))
      bad("P%-256", with(ec, { crv = false }))
      bad("Ed25519", with(okp, { crv = "X25519" }))
      for _, text in ipairs { "", ec.x .. "A", ec.x .. "=", "/" .. ec.x:sub(2), ec.x .. "\0", ("A"):rep(9000) } do
        bad("x and y", with(ec, { x = text }))
        bad("needs x", with(okp, { x = text }))
      end
      bad("x and y", { kty = "EC", crv = "P-256", x = ec.x })
      bad("needs x", { kty = "OKP", crv = "Ed25519", x = 12 })
      bad("n and e", { kty = "RSA", n = rsa.n })
      bad("n and e", { kty = "RSA", e = rsa.e })
      bad("n and e", with(rsa, { n = rsa.n .. "!" }))
      bad("n and e", with(rsa, { n = ("f"):rep(1 << 16) }))
      bad("n and e", with(rsa, { e = ("f"):rep(22) }))
    end)

    it("refuses points that are not on the curve, and the point at infinity", function()
      refused("bad_key", crypto.public_key(with(ec, { y = ec.x })))
      refused("bad_key", crypto.public_key(with(ec, { x = ("A"):rep(43), y = ("A"):rep(43) })))
      refused("bad_key", crypto.public_key(ec_der("\4" .. b64u(ec.x) .. b64u(ec.x))))
      refused("bad_key", crypto.public_key(x "3019301306072a8648ce3d020106082a8648ce3d03010703020000"))
    end)

    it("refuses weak and giant RSA keys", function()
      local function modulus(bits)
        return "\xc1" .. ("\x35"):rep(bits // 8 - 1)
      end
      local e = "\1\0\1"
      for _, bits in ipairs { 512, 1024, 2040, 8200 } do
        refused("bad_key", crypto.public_key(rsa_der(modulus(bits), e)))
        refused("bad_key", crypto.public_key { kty = "RSA", n = crypto.base64url_encode(modulus(bits)), e = "AQAB" })
      end
      for _, bits in ipairs { 2048, 3072, 4096, 8192 } do
        assert(crypto.public_key(rsa_der(modulus(bits), e)))
        assert(crypto.public_key { kty = "RSA", n = crypto.base64url_encode(modulus(bits)), e = "AQAB" })
      end
      for _, bad in ipairs { "\0", "\1", "\2", "\1\0\0", "\1" .. ("\0"):rep(7) .. "\1" } do
        refused("bad_key", crypto.public_key(rsa_der(modulus(2048), bad)))
        refused("bad_key", crypto.public_key(with(rsa, { e = crypto.base64url_encode(bad) })))
      end
    end)

    it("refuses other kinds of key", function()
      local p384 = x [[3076301006072a8648ce3d020106052b8104002203620004
        aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7
        3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f]]
      assert.matches("P%-256", refused("bad_key", crypto.public_key(p384)))
      local x25519 = x "302a300506032b656e032100" .. b64u(okp.x)
      assert.matches("only keys taken", refused("bad_key", crypto.public_key(x25519)))
      local private = x "302e020100300506032b657004220420" .. KEY
      refused("bad_key", crypto.public_key(private))
      assert.matches("not a PUBLIC KEY", refused("bad_key", crypto.public_key(pem(private, "PRIVATE KEY"))))
      assert.matches("not a PUBLIC KEY", refused("bad_key", crypto.public_key(pem(ders.ES256, "CERTIFICATE"))))
    end)

    it("refuses broken, padded and encrypted encodings without asking anybody", function()
      for _, whole in pairs(ders) do
        for n = 0, #whole - 1 do
          refused("bad_key", crypto.public_key(whole:sub(1, n)))
        end
        assert.matches("behind the key", refused("bad_key", crypto.public_key(whole .. "\0")))
        refused("bad_key", crypto.public_key(pem(whole .. "\0")))
        refused("bad_key", crypto.public_key(pem(whole) .. pem(whole)))
        assert(crypto.public_key("\n" .. pem(whole):gsub("\n", "\r\n") .. "\n\n"))
      end
      local text = pem(ders.ES256)
      local header = "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"
      local encrypted = text:gsub("KEY%-%-%-%-%-\n", header, 1)
      refused("bad_key", crypto.public_key(encrypted))
      local begin = "-----BEGIN PUBLIC KEY-----"
      for _, bad in ipairs { "", "\0", "0", "key", begin, text:sub(1, -30), ("x"):rep(1 << 20), ("0"):rep(1 << 20) } do
        refused("bad_key", crypto.public_key(bad))
      end
    end)

    it("survives random damage", function()
      math.randomseed(7)
      for _, whole in pairs(ders) do
        for _ = 1, 300 do
          local at = math.random(#whole)
          local key = crypto.public_key(whole:sub(1, at - 1) .. string.char(math.random(0, 255)) .. whole:sub(at + 1))
          if key then
            assert.is_false(key:verify(key:algorithm(), "text", ("s"):rep(64)))
          end
        end
      end
    end)

    it("raises on wrong types and closed keys", function()
      raises("string or table expected", crypto.public_key)
      raises("string or table expected", crypto.public_key, 1)
      raises("string or table expected", crypto.public_key, crypto.secret("x"))
      local key = crypto.public_key(okp)
      raises("bad argument #1 to 'verify'", function()
        key:verify(nil, "", "")
      end)
      raises("bad argument #3", key.verify, key, "EdDSA", 1, "")
      raises("bad argument #4", key.verify, key, "EdDSA", "", nil)
      key:close()
      key:close()
      assert.equal("public_key: closed", tostring(key))
      for _, name in ipairs { "verify", "raw", "algorithm" } do
        raises("public key is closed", key[name], key, "EdDSA", "", "")
      end
      do
        local scoped <close> = crypto.public_key(okp)
        key = scoped
      end
      raises("public key is closed", key.raw, key)
      raises("public_key expected", key.raw, crypto.signing_key())
    end)
  end)
end)
