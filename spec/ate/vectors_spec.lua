local crypto = require "atelier.crypto"
local header = require "ate.header"
local json = require "atelier.json"
local licence = require "ate.licence"
local open = require "ate.open"
local tmp = require "spec.ate.support.tmp"

local FOLDER = "spec/ate/vectors"

local function changed(case)
  local bytes = tmp.read(FOLDER .. "/" .. case.file)
  if case.keep then bytes = bytes:sub(1, case.keep < 0 and case.keep - 1 or case.keep) end
  if case.set then
    local at, set = case.offset < 0 and #bytes + case.offset or case.offset, crypto.unhex(case.set)
    bytes = bytes:sub(1, at) .. set .. bytes:sub(at + #set + 1)
  end
  return bytes .. crypto.unhex(case.append or "")
end

local function has_warning(result, code)
  for _, warning in ipairs(result.warnings) do
    if warning.code == code then return true end
  end
  return false
end

describe("the published vectors", function()
  local vectors = assert(json.decode(tmp.read(FOLDER .. "/vectors.json")))
  local public = crypto.base64_decode(vectors.signer.public)

  after_each(tmp.clean)

  it("come out of the script byte for byte", function()
    local folder = tmp.folder()
    local paths = ("LUA_PATH=%s LUA_CPATH=%s"):format(tmp.quote(package.path), tmp.quote(package.cpath))
    assert.same({ 0, "" }, { tmp.run(paths .. " lua5.4 spec/ate/make_vectors.lua " .. folder) })
    assert.equal(tmp.list(folder), tmp.list(FOLDER))
    for name in tmp.list(FOLDER):gmatch("%./([^\n]+)") do
      assert.equal(tmp.read(folder .. "/" .. name), tmp.read(FOLDER .. "/" .. name), name)
    end
  end)

  it("give the licence keys of their devices", function()
    for _, one in ipairs(vectors.licences) do
      assert.equal(one.licence, licence.key(crypto.unhex(one.master), one.device_id))
    end
  end)

  it("open, with the key, the sizes and the hashes that they name", function()
    for _, one in ipairs(vectors.files) do
      local key = header.derive(licence.normalise(one.licence), one.device_hash, crypto.unhex(one.salt))
      assert.equal(one.aes_key, crypto.hex(key:reveal()))
      assert.equal(one.encryption_key_hash, crypto.hex(crypto.sha256(crypto.unhex(one.aes_key))))
      local trusted = { [crypto.unhex(vectors.signer.id)] = public }
      local result = assert(open.open(FOLDER .. "/" .. one.file,
        { device_hash = one.device_hash, licence = one.licence, trusted = trusted }))
      assert.equal(one.checksum, result.checksum)
      assert.equal(one.size, result.size)
      assert.equal(one.encryption_key_hash, result.encryption_key_hash)
      assert.same(one.metadata, result.metadata)
      assert.equal(one.signed and vectors.signer.id or nil, result.signed_by)
      assert.equal(not one.signed, has_warning(result, "unknown_signer"))
      assert.equal(one.expired, has_warning(result, "expired"))
      assert.equal("main.lua", result.entries[1].name)
    end
  end)

  it("are refused for the reasons that they name", function()
    local path = tmp.folder() .. "/changed.ate"
    for _, one in ipairs(vectors.refused) do
      tmp.write(path, changed(one))
      local result, message, code = open.open(path,
        { device_hash = one.device_hash, licence = one.licence, signer = vectors.signer.public })
      assert.is_nil(result, one.what)
      assert.equal(one.code, code, one.what)
      assert.truthy(message:find("open: " .. path .. ": ", 1, true))
    end
  end)

  it("do the same in the openers for Node and for the browser", function()
    local cases, expected = {}, {}
    local function add(bytes, one, key, want)
      cases[#cases + 1] = {
        file = crypto.base64_encode(bytes), device = one.device_hash, licence = one.licence, publicKey = key,
      }
      expected[#expected + 1] = want
    end
    for _, one in ipairs(vectors.files) do
      local bytes = tmp.read(FOLDER .. "/" .. one.file)
      local opened = {
        metadata = one.metadata, archive_sha256 = vectors.archive_sha256, expired = one.expired, verified = one.signed,
      }
      add(bytes, one, one.signed and vectors.signer.public or nil, opened)
      add(bytes, { device_hash = one.device_hash, licence = one.licence:lower():gsub("-", "") }, nil,
        { metadata = one.metadata, archive_sha256 = vectors.archive_sha256, expired = one.expired, verified = false })
      add(bytes, one, crypto.base64_encode(crypto.signing_key():public()), { code = "unknown_signer" })
    end
    for _, one in ipairs(vectors.refused) do add(changed(one), one, vectors.signer.public, { code = one.code }) end
    local path = tmp.write(tmp.folder() .. "/cases.json", json.encode(json.array(cases)))
    local code, output = tmp.run("node --no-warnings spec/ate/openers/run.mjs " .. path)
    assert.equal(0, code, output)
    for i, found in ipairs(assert(json.decode(output))) do
      assert.same(expected[i], found.node, "node, case " .. i)
      assert.same(expected[i], found.browser, "browser, case " .. i)
    end
  end)

  it("open on the command line of the opener for Node", function()
    local one, folder = vectors.files[1], tmp.folder()
    local command = ("node --no-warnings spec/ate/openers/open-node.mjs %s/%s %s %s")
      :format(FOLDER, one.file, one.device_hash, one.licence)
    assert.same({ 0, "" }, { tmp.run(("%s %s > %s/out.zip"):format(command, vectors.signer.public, folder)) })
    assert.equal(crypto.base64_decode(vectors.archive), tmp.read(folder .. "/out.zip"))
    local code, output = tmp.run(("%s %s"):format(command:gsub("DEMO%-PRO", "OTHER"), vectors.signer.public))
    assert.equal(1, code)
    assert.truthy(output:find("wrong_key", 1, true))
  end)
end)
