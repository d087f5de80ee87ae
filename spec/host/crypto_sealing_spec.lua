-- atelier.crypto: digests, codes and keys made of secrets, and AES-256-GCM, in memory and file to file.
local crypto = require "atelier.crypto"
local support = require "spec.support.crypto"

local hex = crypto.hex
local x, refused, raises, file_of, content, with_path = support.x, support.refused, support.raises, support.file_of, support.content, support.with_path
local KEY, NONCE = ("k"):rep(32), ("n"):rep(12)

describe("atelier.crypto", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, crypto.live_handles())
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

    it("seal a list of strings and pieces of files as one", function()
      local long = ("0123456789abcde\n"):rep(9 << 16) .. "odd" -- enough for a second thread
      for _, whole in ipairs { bytes, long } do
        local want, want_tag = crypto.gcm_seal(KEY, NONCE, "aad", whole)
        for _, write_back in ipairs { false, true } do
          local target, hash = file_of("head"), crypto.hash()
          target:seek("end")
          local first, second = file_of(whole), file_of(whole .. "more")
          second:seek("set", 1000)
          local parts = { whole:sub(1, 7), { first, 0 }, "", { second, #whole - 1003 }, whole:sub(-3) }
          first:read(7)
          table.insert(parts, 2, { first, 993 })
          local got_tag, count = crypto.gcm_seal_file(KEY, NONCE, "aad", parts, target,
            { hash = hash, write_back = write_back })
          assert.equal(hex(want_tag), hex(got_tag))
          assert.equal(#whole, count)
          assert.is_true(content(target) == "head" .. want)
          assert.equal(crypto.sha256(want), hash:digest())
        end
      end
      local tag_of_nothing = select(2, crypto.gcm_seal(KEY, NONCE, nil, ""))
      assert.equal(tag_of_nothing, (crypto.gcm_seal_file(KEY, NONCE, nil, {}, file_of())))
    end)

    it("tell of a list what is wrong with it", function()
      local function seal(parts, target, options)
        return crypto.gcm_seal_file(KEY, NONCE, nil, parts, target or file_of(), options)
      end
      local megabytes = 12 << 20
      refused("truncated", seal { "abc", { file_of("de"), 3 } })
      refused("truncated", seal { { file_of(bytes), megabytes }, "abc" })
      local full, folder = assert(io.open("/dev/full", "wb")), assert(io.open("/", "rb"))
      refused("ENOSPC", seal({ ("x"):rep(megabytes) }, full))
      refused("EISDIR", seal { ("x"):rep(megabytes), { folder, 10 } })
      full:close()
      folder:close()
      local closed, open = file_of("abc"), file_of("abc")
      closed:close()
      for _, part in ipairs { 1, {}, { open }, { open, -1 }, { open, 1.5 }, { closed, 1 }, { "abc", 3 } } do
        raises("parts must be strings or {file, length}", seal, { part })
      end
      raises("must have at most 2%^36 %- 32 bytes", seal, { { open, 1 << 36 } })
      raises("option 'length' is for a file", seal, { "abc" }, file_of(), { length = 3 })
      raises("must not be the source", seal, { { open, 1 } }, open)
      raises("FILE%* expected", crypto.gcm_open_file, KEY, NONCE, nil, { "abc" }, nil, tag)
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
end)
