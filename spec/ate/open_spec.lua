local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local json = require "atelier.json"
local metadata = require "ate.metadata"
local open = require "ate.open"
local tmp = require "spec.ate.support.tmp"
local zip = require "atelier.zip"

local SECRET = "the plaintext that must not leave"

local function archive()
  local w = zip.writer()
  assert(w:add("main.lua", SECRET, { method = "store" }))
  return (assert(w:close()))
end

local ARCHIVE = archive()
local PUBLIC = forge.signer:public()
local TRUSTED = { [crypto.sha256(PUBLIC):sub(1, 8)] = PUBLIC }
local FOREIGN = crypto.signing_key(("f"):rep(32))

local function codes(result)
  local list = {}
  for i, warning in ipairs(result.warnings) do
    list[i] = warning.code
    assert.equal("string", type(warning.message))
  end
  return table.concat(list, " ")
end

describe("an .ate file", function()
  local folder, path

  before_each(function()
    folder = tmp.begin()
    path = folder .. "/a.ate"
  end)

  after_each(tmp.finish)

  local function put(bytes) return tmp.write(path, bytes) end

  local function try(changes)
    local options = { device_hash = forge.DEVICE, licence = forge.LICENCE, trusted = TRUSTED }
    for key, value in pairs(changes or {}) do options[key] = value end
    return open.open(path, options)
  end

  local function refused(expected, changes)
    local result, message, code = try(changes)
    assert.is_nil(result)
    assert.equal(expected, code, message)
    assert.truthy(message:find("open: " .. path .. ": ", 1, true), message)
    assert.is_nil(message:find(SECRET, 1, true))
  end

  it("opens for its device and its licence", function()
    put(forge.file { archive = ARCHIVE })
    local result = assert(try())
    assert.equal("", codes(result))
    assert.same({ { name = "main.lua", size = #SECRET } }, { result.entries[1] })
    assert.same(json.decode(forge.METADATA), result.metadata)
    assert.equal(crypto.hex(crypto.sha256(tmp.read(path))), result.checksum)
    assert.equal(crypto.hex(next(TRUSTED)), result.signed_by)
    assert.equal("ate1", result.container)
    assert.is_true(result.signed)
    assert.equal(crypto.hex(tmp.read(path):sub(61, 92)), result.encryption_key_hash)
  end)

  it("takes the licence in lower case, without dashes, and with letters for digits", function()
    put(forge.file { archive = ARCHIVE })
    for _, text in ipairs { forge.LICENCE:lower(), (forge.LICENCE:gsub("-", "")), "oi234-56789-abcde-fghjk-mnpqr\n",
      "0L23456789abcde-FGHJKMNPQR" } do
      assert.truthy(try { licence = text })
    end
  end)

  it("stays shut for another device or licence", function()
    put(forge.file { archive = ARCHIVE })
    for _, device in ipairs { "DEMO-PRO-002", "demo-pro-001", "", ("x"):rep(65536), "DEMO-PRO-001\0" } do
      refused("wrong_key", { device_hash = device })
    end
    for _, text in ipairs { "", "x", ("0"):rep(25), forge.LICENCE .. "0", (forge.LICENCE:gsub("R$", "S")), "U" } do
      refused("wrong_key", { licence = text })
    end
  end)

  it("comes apart at no byte that is changed", function()
    local good = forge.file { archive = ARCHIVE }
    local length, size = good:byte(7) << 8 | good:byte(8), #good
    local function allowed(at) -- 1-based
      if at <= 4 then return "not_ate" end
      if at == 5 then return "unsupported" end
      if at == 6 then return "unsupported bad_header" end
      if at <= 8 then return "bad_header truncated trailing_data" end
      if at <= 16 then return "tampered" end
      if at <= 48 then return "wrong_key" end
      if at <= 60 then return "tampered" end
      if at <= 92 then return "wrong_key" end
      if at <= 100 then return "bad_header truncated trailing_data" end
      if at <= length then return "bad_header tampered" end
      if at <= size - 64 then return "tampered" end
      return "bad_signature"
    end
    for at = 1, size do
      for _, mask in ipairs { 1, 0x80, 0xff } do
        put(good:sub(1, at - 1) .. string.char(good:byte(at) ~ mask) .. good:sub(at + 1))
        local result, message, code = try { extract = folder .. "/out" }
        assert.is_nil(result, at)
        assert.truthy((" " .. allowed(at) .. " "):find(" " .. code .. " ", 1, true), at .. ": " .. message)
        assert.is_nil(message:find(SECRET, 1, true))
      end
    end
    assert.equal("./a.ate\n", tmp.list(folder))
  end)

  it("is truncated at every length, and has a code for each", function()
    for _, signer in ipairs { forge.signer, false } do
      local good = forge.file { archive = ARCHIVE, signer = signer }
      for length = 0, #good - 1 do
        put(good:sub(1, length))
        refused(length < 4 and "not_ate" or "truncated", { extract = folder .. "/out" })
      end
    end
    assert.equal("./a.ate\n", tmp.list(folder))
  end)

  it("has nothing behind its end", function()
    for _, signer in ipairs { forge.signer, false } do
      for _, more in ipairs { "\0", ("x"):rep(64), ("x"):rep(100000) } do
        put(forge.file { archive = ARCHIVE, signer = signer, after = more })
        refused("trailing_data")
      end
    end
  end)

  it("is nothing that random bytes are", function()
    for i = 1, 200 do
      put(crypto.random(i * 3))
      refused("not_ate")
      put("ATE1" .. crypto.random(i * 3))
      local result, _, code = try()
      assert.is_nil(result)
      assert.truthy(code == "truncated" or code == "unsupported" or code == "bad_header", code)
      put("ATE1\1\1" .. crypto.random(i * 3))
      result, _, code = try()
      assert.is_nil(result)
      assert.truthy(code == "truncated" or code == "bad_header", code)
    end
  end)

  it("is checked in the order of the format", function()
    local function file(o)
      o.archive = o.archive or ARCHIVE
      put(forge.file(o))
    end
    local nobody, none = ("\0"):rep(8), ("x"):rep(8)
    file { suite = 2, length = 0 }
    refused("unsupported")
    file { flags = 3, size = 0 }
    refused("unsupported")
    for bit = 1, 7 do
      file { flags = 1 | 1 << bit }
      refused("unsupported")
    end
    file { length = 99, after = "x" }
    refused("bad_header")
    file { size = 21, after = "x" }
    refused("bad_header")
    for _, size in ipairs { 0, (1 << 36) - 31, 1 << 40, math.maxinteger, math.mininteger, -1 } do
      file { size = size }
      refused("bad_header")
    end
    file { size = (1 << 36) - 32 }
    refused("truncated")
    file { signer_id = nobody, after = "x" }
    refused("bad_header")
    file { signer = false, signer_id = none, after = "x" }
    refused("bad_header")
    file { text = "{}", after = "x" }
    refused("trailing_data")
    file { text = "{}" }
    refused("bad_header", { licence = "wrong" })
    put((forge.file { archive = ARCHIVE }:gsub("....$", "xxxx")))
    refused("wrong_key", { licence = "wrong" })
    refused("bad_signature")
    refused("unknown_signer", { signer = FOREIGN:public() })
    put((forge.file { archive = ARCHIVE }:gsub(("."):rep(4) .. ("."):rep(64) .. "$", ("x"):rep(68))))
    refused("tampered", { signer = FOREIGN:public() })
  end)

  it("must have sound metadata, however well it is sealed", function()
    local function meta(key, value) return forge.metadata(key, value) end
    local bad = {
      "", "null", "[]", "{}", '"x"', forge.METADATA .. "x", forge.METADATA .. "\0", "\239\187\191" .. forge.METADATA,
      (forge.METADATA:gsub("}$", ',"plan":"max"}')), (forge.METADATA:gsub("}$", ',"x":1,"x":2}')),
      meta("plan", '"\255"'), meta("plan", '"\192\128"'), meta("plan", "1"), meta("tools", '"timeline"'),
      meta("tools", "[1]"), meta("tools", "{}"), meta("tools", "null"), meta("generation", "0"), meta("generation", "-1"), meta("generation", "1.0"),
      meta("generation", '"1"'), meta("generation", "1e3"), meta("generation", "99999999999999999999"),
      meta("issued_at", "null"), meta("issued_at", '"2025-02-30T00:00:00Z"'), meta("issued_at", '"2025-01-01"'),
      meta("expires_at", "5"), meta("expires_at", '"2025-01-01T00:00:00+00:00"'), meta("expires_at", '""'),
    }
    for key in pairs(json.decode(forge.METADATA)) do
      assert.is_nil(meta(key):find('"' .. key .. '"', 1, true))
      bad[#bad + 1] = meta(key)
      bad[#bad + 1] = meta(key, "true")
    end
    for _, text in ipairs(bad) do
      put(forge.file { archive = ARCHIVE, text = text })
      refused("bad_header")
      assert.equal("bad_header", select(3, open.inspect(path)))
      assert.equal("bad_header", select(3, open.verify(path, { trusted = TRUSTED })))
    end
    for _, text in ipairs {
      meta("tools", "[]"), meta("generation", "9223372036854775807"), " " .. forge.METADATA .. "\n",
      (forge.METADATA:gsub("}$", ',"more":{"x":[null,1.5]}}')), meta("expires_at", '"9999-12-31T23:59:59Z"'),
    } do
      put(forge.file { archive = ARCHIVE, text = text })
      assert.truthy(try())
    end
  end)

  it("may be unsigned: a warning on open, a failure with a signer", function()
    put(forge.file { archive = ARCHIVE, signer = false })
    local result = assert(try())
    assert.equal("unknown_signer", codes(result))
    assert.is_nil(result.signed_by)
    refused("unknown_signer", { signer = PUBLIC })
    for _, options in ipairs { { signer = PUBLIC }, { trusted = TRUSTED }, {} } do
      assert.equal("unknown_signer", select(3, open.verify(path, options)))
    end
  end)

  it("of a foreign signer: a warning on open, a failure with a signer", function()
    put(forge.file { archive = ARCHIVE, signer = FOREIGN })
    local result = assert(try())
    assert.equal("unknown_signer", codes(result))
    assert.is_nil(result.signed_by)
    assert.equal(crypto.hex(crypto.sha256(FOREIGN:public()):sub(1, 8)), result.signer_id)
    refused("unknown_signer", { signer = PUBLIC })
    assert.equal("unknown_signer", select(3, open.verify(path, { trusted = TRUSTED })))
    assert.equal("", codes(assert(try { signer = FOREIGN:public() })))
    assert.equal("", codes(assert(open.verify(path, { signer = FOREIGN:public() }))))
  end)

  it("of a signer that borrows a trusted id", function()
    put(forge.file { archive = ARCHIVE, signer = FOREIGN, signer_id = next(TRUSTED) })
    refused("bad_signature")
    refused("bad_signature", { signer = PUBLIC })
    assert.equal("bad_signature", select(3, open.verify(path, { trusted = TRUSTED })))
  end)

  it("opens when it is expired, with a warning", function()
    local at = "2025-06-01T00:00:00Z"
    put(forge.file { archive = ARCHIVE, text = forge.metadata("expires_at", '"' .. at .. '"') })
    assert.equal("expired", codes(assert(try())))
    assert.equal("expired", codes(assert(open.verify(path, { trusted = TRUSTED }))))
    local moment = 1748736000
    assert.equal(at, metadata.time(moment))
    assert.equal("", codes(assert(try { now = moment - 1 })))
    assert.equal("expired", codes(assert(try { now = moment })))
    put(forge.file { archive = ARCHIVE, signer = false, text = forge.metadata("expires_at", '"' .. at .. '"') })
    assert.equal("unknown_signer expired", codes(assert(try())))
  end)

  it("is verified without a licence, up to the last byte of the signature", function()
    local good = forge.file { archive = ARCHIVE }
    put(good)
    local result = assert(open.verify(path, { signer = crypto.base64_encode(PUBLIC) }))
    assert.equal(crypto.hex(crypto.sha256(good)), result.checksum)
    assert.equal(crypto.hex(next(TRUSTED)), result.signed_by)
    for at = 1, #good do
      put(good:sub(1, at - 1) .. string.char(good:byte(at) ~ 1) .. good:sub(at + 1))
      local verdict, message, code = open.verify(path, { signer = PUBLIC })
      assert.is_nil(verdict, at)
      assert.truthy(message:find("verify: " .. path .. ": ", 1, true))
      if at > 100 + #forge.METADATA then assert.equal("bad_signature", code) end
    end
  end)

  it("tells about itself without a key", function()
    put(forge.file { archive = ARCHIVE })
    local result = assert(open.inspect(path))
    assert.same(json.decode(forge.METADATA), result.metadata)
    assert.is_true(result.signed)
    assert.equal(#ARCHIVE, result.archive_size)
    assert.is_nil(result.checksum)
    assert.is_nil(result.entries)
  end)

  it("must be a file that is there", function()
    assert.equal("ENOENT", select(3, try()))
    path = folder
    assert.equal("not_ate", select(3, try()))
    path = "/dev/null"
    assert.equal("not_ate", select(3, try()))
    path = folder .. "/pipe"
    os.execute("mkfifo " .. path)
    assert.equal("not_ate", select(3, try()))
    assert.equal("not_ate", select(3, open.inspect(path)))
    assert.equal("not_ate", select(3, open.verify(path, { trusted = TRUSTED })))
  end)

  it("raises for wrong calls, and refuses public keys that are none", function()
    put(forge.file { archive = ARCHIVE })
    assert.error_matches(function() try { typo = 1 } end, "unknown option 'typo'")
    assert.error_matches(function() try { limits = { files = 1 } } end, "unknown option 'files'")
    assert.error_matches(function() try { licence = 5 } end, "'licence' must be string")
    assert.error_matches(function() open.open(path, { device_hash = "x" }) end, "'licence' must be string")
    assert.error_matches(function() open.verify(path, { licence = "x" }) end, "unknown option 'licence'")
    for _, text in ipairs { "", "x", crypto.base64_encode("short"), "-----BEGIN PUBLIC KEY-----\n" } do
      assert.equal("bad_key", select(3, try { signer = text }))
      assert.equal("bad_key", select(3, open.verify(path, { signer = text })))
    end
  end)

  it("opens alike in the other openers, and is refused alike at each changed byte", function()
    local good = forge.file { archive = ARCHIVE, device = "device-1" }
    local cases, expected = {}, {}
    local function add(bytes, licence, device)
      cases[#cases + 1] = {
        file = crypto.base64_encode(bytes), device = device or "device-1", licence = licence or forge.LICENCE,
        publicKey = crypto.base64_encode(PUBLIC),
      }
      put(bytes)
      local options = { device_hash = device or "device-1", licence = licence or forge.LICENCE, signer = PUBLIC }
      expected[#expected + 1] = select(3, open.open(path, options)) or "opened"
    end
    add(good)
    add(good, "oi23456789abcdefghjkmnpqr")
    add(good, nil, "device-2")
    add(good, "wrong")
    for at = 1, #good do
      local inside = at > 100 and at <= 100 + #forge.METADATA -- JSON.parse is laxer than the contract: not compared
      if not inside then add(good:sub(1, at - 1) .. string.char(good:byte(at) ~ 0x81) .. good:sub(at + 1)) end
    end
    local list = tmp.write(folder .. "/cases.json", json.encode(json.array(cases)))
    local code, output = tmp.run("node --no-warnings spec/ate/openers/run.mjs " .. list)
    assert.equal(0, code, output)
    for i, found in ipairs(assert(json.decode(output))) do
      assert.equal(expected[i], found.node.code or "opened", "node, case " .. i)
      assert.equal(expected[i], found.browser.code or "opened", "browser, case " .. i)
    end
  end)
end)
