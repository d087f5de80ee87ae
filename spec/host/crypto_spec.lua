local crypto = require "atelier.crypto"

local hex = crypto.hex

-- Bytes of hexadecimal digits, blanks ignored.
local function x(digits)
  return assert(crypto.unhex((digits:gsub("%s", ""))))
end

local function b64u(text)
  return assert(crypto.base64url_decode(text))
end

-- Asserts the failure triple and returns its message.
local function refused(code, value, message, got)
  assert.is_nil(value)
  assert.is_string(message)
  assert.equal(code, got)
  return message
end

local function raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, message)
end

-- A temporary file at its beginning that holds these bytes.
local function file_of(bytes)
  local f = assert(io.tmpfile())
  assert(f:write(bytes or ""))
  assert(f:seek("set"))
  return f
end

local function content(f)
  assert(f:seek("set"))
  return f:read("a")
end

-- A named file that is removed when the function returns.
local function with_path(bytes, f)
  local path = os.tmpname()
  local out = assert(io.open(path, "wb"))
  assert(out:write(bytes))
  assert(out:close())
  local ok, message = pcall(f, path)
  os.remove(path)
  assert(ok, message)
end

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

  describe("sha256", function()
    -- FIPS 180-4 examples and RFC 6234 section 8.5.
    local vectors = {
      { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
      { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
      {
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
      },
      { ("a"):rep(1000000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
      { ("01234567"):rep(80), "594847328451bdfa85056225462cc1d867d877fb388df0ce35f25ab5562bfbb5" },
      { "\x19", "68aa2e2ee5dff96e3355e6c7ee373e3d6a4e17f75f9518d843709c0c9bc3e3d4" },
    }

    it("agrees with FIPS 180-4 and RFC 6234, at once, in pieces and from a file", function()
      for _, v in ipairs(vectors) do
        assert.equal(v[2], hex(crypto.sha256(v[1])))
        local hash = crypto.hash()
        for i = 1, #v[1], 997 do
          hash:update(v[1]:sub(i, i + 996))
        end
        assert.equal(v[2], hex(hash:digest()))
        with_path(v[1], function(path)
          local digest, size = crypto.sha256_file(path)
          assert.equal(v[2], hex(digest))
          assert.equal(#v[1], size)
        end)
      end
    end)

    it("takes zero bytes and secrets", function()
      assert.not_equal(crypto.sha256("a"), crypto.sha256("a\0b"))
      assert.equal(crypto.sha256("a\0b"), crypto.sha256(crypto.secret("a\0b")))
    end)

    it("raises on anything but bytes", function()
      for _, bad in ipairs { 1, true, {}, print, io.stdout } do
        raises("string or secret expected", crypto.sha256, bad)
      end
      raises("string or secret expected, got no value", crypto.sha256)
    end)

    it("hashes files of more than one chunk", function()
      local bytes = ("0123456789abcdef"):rep(3 << 16)
      with_path(bytes, function(path)
        assert.same({ crypto.sha256(bytes), #bytes }, { crypto.sha256_file(path) })
      end)
    end)

    it("reports what stops it from reading a file", function()
      assert.matches("^sha256_file: /nonexistent/f: ", refused("ENOENT", crypto.sha256_file("/nonexistent/f")))
      refused("EISDIR", crypto.sha256_file("/"))
      refused("ENOENT", crypto.sha256_file(""))
      refused("ENAMETOOLONG", crypto.sha256_file(("x"):rep(5000)))
      raises("zero byte", crypto.sha256_file, "a\0b")
      raises("string expected", crypto.sha256_file, 1)
    end)

    it("does not wait for the writer of a FIFO", function()
      local path = os.tmpname()
      os.remove(path)
      assert(os.execute("mkfifo " .. path))
      local digest, size = crypto.sha256_file(path)
      os.remove(path)
      assert.equal(hex(crypto.sha256("")), hex(digest))
      assert.equal(0, size)
    end)
  end)

  describe("hash", function()
    it("takes several pieces and goes on after a digest", function()
      local hash = crypto.hash()
      assert.equal(crypto.sha256(""), hash:digest())
      assert.equal(hash, hash:update("a", "", crypto.secret("b")))
      assert.equal(crypto.sha256("ab"), hash:digest())
      assert.equal(crypto.sha256("ab"), hash:digest())
      assert.equal(crypto.sha256("abc"), hash:update("c"):digest())
    end)

    it("copies its state", function()
      local first = crypto.hash():update("a")
      local second = first:copy():update("b")
      assert.equal(crypto.sha256("ab"), second:digest())
      assert.equal(crypto.sha256("a"), first:digest())
    end)

    it("adds nothing when one piece is refused", function()
      local hash = crypto.hash():update("a")
      raises("bad argument #3 .*string or secret expected", hash.update, hash, "b", 3)
      assert.equal(crypto.sha256("a"), hash:digest())
    end)

    it("raises when it is closed, and closes twice", function()
      local hash = crypto.hash()
      assert.equal("hash: sha256", tostring(hash))
      hash:close()
      hash:close()
      assert.equal("hash: closed", tostring(hash))
      for _, name in ipairs { "update", "copy", "digest" } do
        raises("hash is closed", hash[name], hash)
        raises("hash expected", hash[name], crypto.secret("x"))
      end
      do
        local scoped <close> = crypto.hash()
        hash = scoped
      end
      assert.equal("hash: closed", tostring(hash))
    end)
  end)

  describe("hmac_sha256", function()
    -- RFC 4231, section 4; case 5 is truncated to 128 bits there.
    local vectors = {
      { ("0b"):rep(20), hex "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
      {
        hex "Jefe",
        hex "what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      },
      { ("aa"):rep(20), ("dd"):rep(50), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
      {
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        ("cd"):rep(50),
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
      },
      { ("0c"):rep(20), hex "Test With Truncation", "a3b6167473100ee06e0c796c2955552b" },
      {
        ("aa"):rep(131),
        hex "Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      },
      {
        ("aa"):rep(131),
        hex("This is a test using a larger than block-size key and a larger than block-size data. The key"
          .. " needs to be hashed before being used by the HMAC algorithm."),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
      },
    }

    it("agrees with RFC 4231, with keys as strings and as secrets", function()
      for _, v in ipairs(vectors) do
        assert.equal(v[3], hex(crypto.hmac_sha256(x(v[1]), x(v[2]))):sub(1, #v[3]))
        assert.equal(v[3], hex(crypto.hmac_sha256(crypto.secret(x(v[1])), x(v[2]))):sub(1, #v[3]))
      end
    end)

    it("takes an empty key and an empty text, whatever key came before", function()
      crypto.hmac_sha256("another key", "text")
      local empty = crypto.hmac_sha256("", "")
      assert.equal("b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad", hex(empty))
      assert.equal(empty, crypto.hmac_sha256(crypto.secret(""), crypto.secret("")))
    end)

    it("raises on a closed secret and on wrong types", function()
      local secret = crypto.secret("k")
      secret:close()
      raises("secret is closed", crypto.hmac_sha256, secret, "text")
      raises("secret is closed", crypto.hmac_sha256, "k", secret)
      raises("bad argument #1 .*string or secret expected", crypto.hmac_sha256, nil, "text")
      raises("bad argument #2 .*string or secret expected", crypto.hmac_sha256, "k", 1)
    end)
  end)

  describe("hkdf_sha256", function()
    -- RFC 5869, appendix A.1 to A.3.
    local function bytes(first, last)
      local t = {}
      for b = first, last do
        t[#t + 1] = string.char(b)
      end
      return table.concat(t)
    end
    local vectors = {
      {
        ("\x0b"):rep(22),
        bytes(0x00, 0x0c),
        bytes(0xf0, 0xf9),
        [[3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865]],
      },
      {
        bytes(0x00, 0x4f),
        bytes(0x60, 0xaf),
        bytes(0xb0, 0xff),
        [[b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09
          da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87]],
      },
      {
        ("\x0b"):rep(22),
        "",
        "",
        [[8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8]],
      },
    }

    it("agrees with RFC 5869", function()
      for _, v in ipairs(vectors) do
        local okm = x(v[4])
        local secret = crypto.hkdf_sha256(v[1], v[2], v[3], #okm)
        assert.equal(hex(okm), hex(secret:reveal()))
        assert.is_true(crypto.equal(okm, crypto.hkdf_sha256(crypto.secret(v[1]), v[2], v[3], #okm)))
      end
    end)

    it("reads an absent salt and info as empty ones", function()
      local v = vectors[3]
      assert.equal(x(v[4]), crypto.hkdf_sha256(v[1], nil, nil, 42):reveal())
    end)

    it("gives the same bytes at every length, up to 255 blocks", function()
      local all = crypto.hkdf_sha256("s", "salt", "info", 8160):reveal()
      assert.equal(8160, #all)
      for _, n in ipairs { 1, 31, 32, 33, 64, 65, 8159 } do
        assert.equal(all:sub(1, n), crypto.hkdf_sha256("s", "salt", "info", n):reveal())
      end
    end)

    it("raises on lengths out of range and wrong types", function()
      for _, n in ipairs { 0, -1, 8161, math.maxinteger } do
        raises("between 1 and 8160", crypto.hkdf_sha256, "s", "salt", "info", n)
      end
      raises("number expected", crypto.hkdf_sha256, "s", "salt", "info")
      raises("bad argument #2", crypto.hkdf_sha256, "s", 1, "info", 32)
      raises("bad argument #1", crypto.hkdf_sha256, {}, "salt", "info", 32)
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

  describe("gcm", function()
    local plain = x [[d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
      1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255]]
    local key = x("feffe9928665731c6d6a8f9467308308"):rep(2)
    local sealed = x [[522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad]]
    local zeros = ("\0"):rep(32)
    -- The GCM specification submitted to NIST, test cases 13 to 16, and the first of gcmEncryptExtIV256.rsp.
    local vectors = {
      { zeros, zeros:sub(1, 12), nil, "", "", "530f8afbc74536b9a963b4f1c4cb738b" },
      {
        zeros,
        zeros:sub(1, 12),
        "",
        zeros:sub(1, 16),
        x "cea7403d4d606b6e074ec5d3baf39d18",
        "d0d1c8a799996bf0265b98b5d48ab919",
      },
      { key, x "cafebabefacedbaddecaf888", "", plain, sealed, "b094dac5d93471bdec1a502270e3cc6c" },
      {
        key,
        x "cafebabefacedbaddecaf888",
        x "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plain:sub(1, 60),
        sealed:sub(1, 60),
        "76fc6ece0f4e1768cddf8853bb2d551b",
      },
      {
        x "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
        x "516c33929df5a3284ff463d7",
        nil,
        "",
        "",
        "bdc1ac884d332457a1d2664f168c76f0",
      },
    }

    it("agrees with the vectors of NIST, in memory and file to file", function()
      for _, v in ipairs(vectors) do
        local ciphertext, tag = crypto.gcm_seal(v[1], v[2], v[3], v[4])
        assert.equal(hex(v[5]), hex(ciphertext))
        assert.equal(v[6], hex(tag))
        assert.equal(v[4], crypto.gcm_open(crypto.secret(v[1]), v[2], v[3], v[5], x(v[6])))

        local source, target, back = file_of(v[4]), file_of(), file_of()
        local file_tag, n = crypto.gcm_seal_file(v[1], v[2], v[3], source, target)
        assert.equal(v[6], hex(file_tag))
        assert.equal(#v[4], n)
        assert.equal(v[5], content(target))
        target:seek("set")
        assert.equal(n, crypto.gcm_open_file(v[1], v[2], v[3], target, back, file_tag))
        assert.equal(v[4], content(back))
      end
    end)

    it("opens nothing that was changed by one bit, anywhere", function()
      local aad = "about"
      local ciphertext, tag = crypto.gcm_seal(KEY, NONCE, aad, "attack at dawn")
      local parts = { KEY, NONCE, aad, ciphertext, tag }
      for i = 1, #parts do
        for at = 1, #parts[i] do
          local changed = { table.unpack(parts) }
          changed[i] = parts[i]:sub(1, at - 1) .. string.char(parts[i]:byte(at) ~ 1 << at % 8) .. parts[i]:sub(at + 1)
          refused("tampered", crypto.gcm_open(table.unpack(changed)))
        end
      end
      refused("tampered", crypto.gcm_open(KEY, NONCE, nil, ciphertext, tag))
      refused("tampered", crypto.gcm_open(KEY, NONCE, aad, ciphertext .. "\0", tag))
      refused("tampered", crypto.gcm_open(KEY, NONCE, aad, ciphertext:sub(1, -2), tag))
      refused("tampered", crypto.gcm_open(KEY, NONCE, aad, "", tag))
      assert.equal("attack at dawn", crypto.gcm_open(KEY, NONCE, aad, ciphertext, tag))
    end)

    it("raises on wrong sizes and types", function()
      local tag = ("t"):rep(16)
      for _, bad in ipairs { "", KEY:sub(2), KEY .. "k" } do
        raises("key must have 32 bytes", crypto.gcm_seal, bad, NONCE, nil, "")
        raises("key must have 32 bytes", crypto.gcm_open, crypto.secret(bad), NONCE, nil, "", tag)
      end
      for _, bad in ipairs { "", NONCE:sub(2), NONCE .. "n", ("n"):rep(16) } do
        raises("nonce must have 12 bytes", crypto.gcm_seal, KEY, bad, nil, "")
        raises("nonce must have 12 bytes", crypto.gcm_open, KEY, bad, nil, "", tag)
      end
      for _, bad in ipairs { "", tag:sub(2), tag .. "t", ("t"):rep(12) } do
        raises("tag must have 16 bytes", crypto.gcm_open, KEY, NONCE, nil, "", bad)
      end
      raises("bad argument #4", crypto.gcm_seal, KEY, NONCE, nil)
      raises("bad argument #4", crypto.gcm_seal, KEY, NONCE, nil, 5)
      raises("bad argument #3", crypto.gcm_seal, KEY, NONCE, 5, "")
      raises("bad argument #5", crypto.gcm_open, KEY, NONCE, nil, "")
    end)
  end)

  describe("gcm files", function()
    local bytes = ("0123456789abcdef"):rep(3 << 16) .. "odd"
    local ciphertext, tag = crypto.gcm_seal(KEY, NONCE, "aad", bytes)

    it("agree with memory over several chunks", function()
      local target, back = file_of(), file_of()
      local hash = crypto.hash()
      assert.same(
        { tag, #bytes },
        { crypto.gcm_seal_file(crypto.secret(KEY), NONCE, "aad", file_of(bytes), target, { hash = hash }) }
      )
      assert.is_true(content(target) == ciphertext)
      assert.equal(crypto.sha256(ciphertext), hash:digest())

      hash = crypto.hash()
      target:seek("set")
      assert.equal(#bytes, crypto.gcm_open_file(KEY, NONCE, "aad", target, back, tag, { hash = hash }))
      assert.is_true(content(back) == bytes)
      assert.equal(crypto.sha256(ciphertext), hash:digest())
    end)

    it("work from where the files stand, over as much as told", function()
      local size = 1 << 20
      for _, n in ipairs { 0, 1, 4096, size - 1, size, size + 1 } do
        local part = bytes:sub(11, 10 + n)
        local want, want_tag = crypto.gcm_seal(KEY, NONCE, nil, part)
        local source, target = file_of(bytes), file_of("head")
        source:read(10)
        target:seek("end")
        local got_tag, count = crypto.gcm_seal_file(KEY, NONCE, nil, source, target, { length = n })
        assert.equal(hex(want_tag), hex(got_tag))
        assert.equal(n, count)
        assert.is_true(content(target) == "head" .. want)
        assert.equal(bytes:sub(11 + n, 20 + n), source:read(10))

        target:write("behind")
        target:seek("set", 4)
        assert.equal(n, crypto.gcm_open_file(KEY, NONCE, nil, target, nil, want_tag, { length = n }))
        assert.is_nil(target:seek("set", 4) ~= 4 or nil)
      end
    end)

    it("verify without a target", function()
      assert.equal(#bytes, crypto.gcm_open_file(KEY, NONCE, "aad", file_of(ciphertext), nil, tag))
      refused("tampered", crypto.gcm_open_file(KEY, NONCE, "aae", file_of(ciphertext), nil, tag))
      refused("tampered", crypto.gcm_open_file(KEY, NONCE, "aad", file_of(ciphertext .. "x"), nil, tag))
      local middle = ciphertext:sub(1, 1500000) .. "\0" .. ciphertext:sub(1500002)
      refused("tampered", crypto.gcm_open_file(KEY, NONCE, "aad", file_of(middle), nil, tag))
    end)

    it("report a source that is too short", function()
      local options = { length = 4 }
      local message = refused("truncated", crypto.gcm_seal_file(KEY, NONCE, nil, file_of("abc"), file_of(), options))
      assert.equal("gcm_seal_file: source: ends after 3 of 4 bytes", message)
      refused("truncated", crypto.gcm_open_file(KEY, NONCE, nil, file_of("abc"), nil, tag, { length = 1 << 35 }))
    end)

    it("report a file that cannot be read or written", function()
      local full = assert(io.open("/dev/full", "wb"))
      local folder = assert(io.open("/", "rb"))
      local message = refused("ENOSPC", crypto.gcm_seal_file(KEY, NONCE, nil, file_of("abc"), full))
      assert.matches("^gcm_seal_file: target: ", message)
      refused("ENOSPC", crypto.gcm_seal_file(KEY, NONCE, nil, file_of(bytes), full))
      assert.matches("source", refused("EISDIR", crypto.gcm_seal_file(KEY, NONCE, nil, folder, file_of())))
      refused("EISDIR", crypto.gcm_open_file(KEY, NONCE, nil, folder, nil, tag))
      with_path("abc", function(path)
        local read_only = assert(io.open(path, "rb"))
        refused("EBADF", crypto.gcm_seal_file(KEY, NONCE, nil, file_of("abc"), read_only))
        read_only:close()
      end)
      folder:close()
      full:close()
    end)

    it("raise on closed and wrong handles", function()
      local closed, open = file_of("abc"), file_of("abc")
      closed:close()
      raises("file is closed", crypto.gcm_seal_file, KEY, NONCE, nil, closed, open)
      raises("file is closed", crypto.gcm_seal_file, KEY, NONCE, nil, open, closed)
      raises("file is closed", crypto.gcm_open_file, KEY, NONCE, nil, closed, nil, tag)
      raises("must not be the source", crypto.gcm_seal_file, KEY, NONCE, nil, open, open)
      raises("must not be the source", crypto.gcm_open_file, KEY, NONCE, nil, open, open, tag)
      raises("FILE%* expected, got nil", crypto.gcm_seal_file, KEY, NONCE, nil, open, nil)
      raises("FILE%* expected", crypto.gcm_seal_file, KEY, NONCE, nil, "path", open)
      raises("key must have 32 bytes", crypto.gcm_seal_file, "k", NONCE, nil, open, file_of())
      raises("nonce must have 12 bytes", crypto.gcm_seal_file, KEY, "n", nil, open, file_of())
      raises("tag must have 16 bytes", crypto.gcm_open_file, KEY, NONCE, nil, open, nil, "t")
    end)

    it("check their options", function()
      local function seal(options)
        return crypto.gcm_seal_file(KEY, NONCE, nil, file_of("abc"), file_of(), options)
      end
      local closed = crypto.hash()
      closed:close()
      raises("unknown option 'lenght'", seal, { lenght = 3 })
      raises("between 0 and 2%^36 %- 32", seal, { length = -1 })
      raises("between 0 and 2%^36 %- 32", seal, { length = (1 << 36) - 31 })
      raises("option 'length' must be an integer", seal, { length = "3" })
      raises("option 'length' must be an integer", seal, { length = 2.5 })
      raises("option 'hash' must be a hash", seal, { hash = "sha256" })
      raises("option 'hash' must be a hash", seal, { hash = crypto.secret("x") })
      raises("hash is closed", seal, { hash = closed })
      raises("table expected", seal, 3)
      refused("truncated", seal { length = (1 << 36) - 32 })
      raises("unknown option 'x'", crypto.gcm_open_file, KEY, NONCE, nil, file_of("abc"), nil, tag, { x = 1 })
    end)

    it("need the same memory for a large file", function()
      local function peak()
        for line in io.lines("/proc/self/status") do
          local kib = line:match("^VmHWM:%s+(%d+)")
          if kib then
            return tonumber(kib)
          end
        end
      end
      local source = assert(io.tmpfile())
      assert(source:seek("set", (64 << 20) - 1))
      assert(source:write("\0"))
      source:seek("set")
      collectgarbage()
      local before = peak()
      assert(crypto.gcm_seal_file(KEY, NONCE, nil, source, file_of()))
      assert.is_true(peak() - before < 8 << 10)
    end)
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
