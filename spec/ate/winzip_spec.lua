local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local licence = require "ate.licence"
local open = require "ate.open"
local rawzip = require "spec.ate.support.rawzip"
local stat = require "posix.sys.stat"
local tmp = require "spec.ate.support.tmp"
local winzip = require "ate.winzip"
local zip = require "atelier.zip"

local TEXT = 'print("a small script")\n'

local function archive()
  local w = zip.writer()
  assert(w:add("main.lua", TEXT))
  assert(w:add("images/a.png", crypto.random(5000), { method = "store" }))
  return (assert(w:close()))
end

describe("a winzip-aes256 container", function()
  local folder, path

  before_each(function()
    folder = tmp.begin()
    path = folder .. "/a.ate"
  end)

  after_each(tmp.finish)

  local function seal()
    local sealed = assert(winzip.seal { archive = archive(), licence = forge.LICENCE:lower() })
    tmp.write(path, table.unpack(sealed.parts))
    return sealed
  end

  local function try(changes)
    local options = { device_hash = forge.DEVICE, licence = forge.LICENCE }
    for key, value in pairs(changes or {}) do options[key] = value end
    return open.open(path, options)
  end

  it("names its size, its hash and that of the licence key", function()
    local sealed = seal()
    local bytes = tmp.read(path)
    assert.equal(#bytes, sealed.size)
    assert.equal(crypto.hex(crypto.sha256(bytes)), sealed.checksum)
    assert.equal(crypto.hex(crypto.sha256("0123456789ABCDEFGHJKMNPQR")), sealed.encryption_key_hash)
    assert.is_nil(bytes:find("small script", 1, true))
  end)

  it("opens with 7-Zip, the licence key with dashes as password", function()
    seal()
    local code, output = tmp.run(("cd %s && 7z x -p%s -oout a.ate"):format(folder, forge.LICENCE))
    assert.equal(0, code, output)
    assert.equal(TEXT, tmp.read(folder .. "/out/main.lua"))
    code = tmp.run(("cd %s && 7z x -p%s -oout2 a.ate"):format(folder, (forge.LICENCE:gsub("-", ""))))
    assert.not_equal(0, code)
    code, output = tmp.run(("7z l -slt %s"):format(path))
    assert.equal(0, code)
    assert.equal(2, select(2, output:gsub("Method = AES%-256", "")))
  end)

  it("opens here, with a warning that nobody signed it", function()
    local sealed = seal()
    local result = assert(try { licence = "  " .. forge.LICENCE:lower():gsub("-", ""), extract = folder .. "/out" })
    assert.equal("winzip-aes256", result.container)
    assert.equal(sealed.checksum, result.checksum)
    assert.equal("unknown_signer", result.warnings[1].code)
    assert.same({ "main.lua", "images/a.png" }, { result.entries[1].name, result.entries[2].name })
    assert.is_nil(result.metadata)
    assert.equal(TEXT, tmp.read(folder .. "/out/main.lua"))
    assert.equal("winzip-aes256", assert(open.inspect(path)).container)
  end)

  it("is made from file to file too, entries of any size, or nothing is left behind", function()
    local big = crypto.random(17 << 20)
    local w = zip.writer(folder .. "/a.zip")
    assert(w:add("main.lua", TEXT))
    assert(w:add("big.bin", big, { method = "store" }))
    assert(w:close())
    local sealed = assert(winzip.seal_file { archive_path = folder .. "/a.zip", path = path, licence = forge.LICENCE })
    assert.equal("./a.ate\n./a.zip\n", tmp.list(folder))
    assert.equal(384, stat.stat(path).st_mode & 4095)
    local result = assert(try { extract = folder .. "/out" })
    assert.equal(sealed.checksum, result.checksum)
    assert.equal(sealed.size, result.size)
    assert.equal(TEXT, tmp.read(folder .. "/out/main.lua"))
    assert.is_true(big == tmp.read(folder .. "/out/big.bin"))
    assert.equal(#tmp.read(path), assert(winzip.seal { archive = tmp.read(folder .. "/a.zip"), licence = forge.LICENCE }).size)

    tmp.write(folder .. "/bad.zip", "x")
    local before = tmp.list(folder)
    local function refused(source, target, expected)
      local made, message, code = winzip.seal_file { archive_path = source, path = target, licence = forge.LICENCE }
      assert.is_nil(made)
      assert.equal(expected, code, message)
      assert.equal(before, tmp.list(folder))
    end
    refused(folder .. "/bad.zip", path, "bad_archive")
    refused(folder .. "/none", path, "ENOENT")
    refused(folder .. "/a.zip", folder .. "/none/a.ate", "ENOENT")
    refused(folder .. "/a.zip", folder .. "/out", "EISDIR")
  end)

  it("is unsigned to verify and to a signer", function()
    seal()
    local key = forge.signer:public()
    assert.equal("unknown_signer", select(3, open.verify(path, { signer = key })))
    assert.equal("unknown_signer", select(3, open.verify(path, { trusted = {} })))
    assert.equal("unknown_signer", select(3, try { signer = key }))
    assert.equal("unknown_signer", select(3, try { signer = key, extract = folder .. "/out" }))
    assert.equal("./a.ate\n", tmp.list(folder))
  end)

  it("stays shut for another licence", function()
    seal()
    for _, text in ipairs { "", "x", (forge.LICENCE:gsub("R$", "S")), licence.format(("0"):rep(25)) } do
      assert.equal("wrong_key", select(3, try { licence = text, extract = folder .. "/out" }))
    end
    assert.equal("./a.ate\n", tmp.list(folder))
  end)

  it("gives no plaintext when it is damaged", function()
    seal()
    local good, opened = tmp.read(path), 0
    for at = 1, #good, 97 do
      tmp.write(path, good:sub(1, at - 1), string.char(good:byte(at) ~ 0x55), good:sub(at + 1))
      local result, _, code = try { extract = folder .. "/out" }
      if result then
        opened = opened + 1 -- a byte that this form does not protect, such as a time stamp
        os.execute("rm -r " .. folder .. "/out")
      else
        assert.truthy(("not_ate bad_archive tampered wrong_key"):find(code, 1, true), code)
      end
      assert.equal("./a.ate\n", tmp.list(folder))
    end
    assert.truthy(opened < 3, opened)
    for length = 0, #good - 1, 311 do
      tmp.write(path, good:sub(1, length))
      assert.is_nil((try { extract = folder .. "/out" }))
    end
  end)

  it("is not any ZIP", function()
    tmp.write(path, archive())
    assert.equal("not_ate", select(3, try()))
    tmp.write(path, "PK\5\6" .. ("\0"):rep(18))
    assert.equal("not_ate", select(3, try()))
    tmp.write(path, rawzip.build { { name = "../x", data = "x" } })
    assert.equal("bad_archive", select(3, try()))
    local w = zip.writer()
    assert(w:add("main.lua", TEXT, { password = forge.LICENCE }))
    assert(w:add("added.lua", "evil"))
    tmp.write(path, (assert(w:close())))
    assert.equal("tampered", select(3, try { extract = folder .. "/out" }))
    assert.equal("./a.ate\n", tmp.list(folder))
  end)

  it("is made of an archive and a licence", function()
    assert.equal("bad_licence", select(3, winzip.seal { archive = archive(), licence = "x" }))
    assert.equal("bad_archive", select(3, winzip.seal { archive = "x", licence = forge.LICENCE }))
    assert.error_matches(function() winzip.seal { archive = 5, licence = forge.LICENCE } end, "must be string")
  end)
end)
