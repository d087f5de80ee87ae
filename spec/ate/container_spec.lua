local container = require "ate.container"
local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local json = require "atelier.json"
local open = require "ate.open"
local stat = require "posix.sys.stat"
local tmp = require "spec.ate.support.tmp"
local zip = require "atelier.zip"

local function archive()
  local w = zip.writer()
  assert(w:add("main.lua", "print(1)\n"))
  return (assert(w:close()))
end

local function options(changes)
  local o = {
    archive = archive(), licence = forge.LICENCE, device_hash = forge.DEVICE, metadata = json.decode(forge.METADATA),
    signer = forge.signer,
  }
  for key, value in pairs(changes or {}) do o[key] = value end
  return o
end

describe("sealing in memory", function()
  local folder, path

  before_each(function()
    folder = tmp.begin()
    path = folder .. "/a.ate"
  end)

  after_each(tmp.finish)

  it("makes the format of the contract", function()
    local o = options { salt = ("s"):rep(32), nonce = ("n"):rep(12) }
    local sealed = assert(container.seal(o))
    local bytes = table.concat(sealed.parts)
    local text = forge.METADATA
    local length = 100 + #text
    local id = crypto.sha256(forge.signer:public()):sub(1, 8)
    local info = "ATE1 key\0\0\12DEMO-PRO-001"
    local key = crypto.hkdf_sha256("0123456789ABCDEFGHJKMNPQR", ("s"):rep(32), info, 32)
    local head = "ATE1\1\1" .. (">I2"):pack(length) .. id .. ("s"):rep(32) .. ("n"):rep(12) .. crypto.sha256(key)
      .. (">I8"):pack(#o.archive) .. text
    local ciphertext, tag = crypto.gcm_seal(key, ("n"):rep(12), head, o.archive)
    local to_sign = head .. ciphertext .. tag
    assert.equal(to_sign .. forge.signer:sign("ATE1 signature\0" .. crypto.sha256(to_sign)), bytes)
    assert.equal(#bytes, sealed.size)
    assert.equal(crypto.hex(crypto.sha256(bytes)), sealed.checksum)
    assert.equal(crypto.hex(crypto.sha256(key)), sealed.encryption_key_hash)
  end)

  it("never repeats salt or nonce by itself", function()
    local seen = {}
    for _ = 1, 50 do
      local head = container.seal(options()).parts[1]
      assert.is_nil(seen[head:sub(17, 60)])
      seen[head:sub(17, 60)] = true
    end
  end)

  it("leaves a file without a signer unsigned", function()
    local o = options()
    o.signer = nil
    local sealed = assert(container.seal(o))
    tmp.write(path, table.unpack(sealed.parts))
    local found = assert(open.inspect(path))
    assert.is_false(found.signed)
    assert.is_nil(found.signer_id)
    assert.equal(sealed.size, found.size)
  end)

  it("refuses what open would refuse", function()
    local bad = json.decode(forge.METADATA)
    bad.generation = 0
    local long = json.decode(forge.METADATA)
    long.plan = ("x"):rep(65436)
    local cases = {
      bad_licence = { { licence = "x" }, { licence = "" }, { licence = forge.LICENCE .. "0" } },
      bad_device = {
        { device_hash = "" }, { device_hash = ".x" }, { device_hash = "a/b" }, { device_hash = ("x"):rep(129) },
        { device_hash = "x\0" }, { device_hash = "é" },
      },
      bad_archive = { { archive = "" }, { archive = ("x"):rep(21) } },
      bad_header = { { metadata = {} }, { metadata = bad }, { metadata = long } },
    }
    for expected, list in pairs(cases) do
      for _, changes in ipairs(list) do
        local sealed, message, code = container.seal(options(changes))
        assert.is_nil(sealed)
        assert.equal(expected, code)
        assert.truthy(message:find("^seal: "), message)
      end
    end
  end)

  it("takes metadata up to the last byte of the header", function()
    local value = json.decode(forge.METADATA)
    value.plan = ("x"):rep(65535 - 100 - #forge.METADATA + #"pro")
    tmp.write(path, table.unpack(assert(container.seal(options { metadata = value })).parts))
    assert.equal(value.plan, assert(open.inspect(path)).metadata.plan)
    value.plan = value.plan .. "x"
    assert.equal("bad_header", select(3, container.seal(options { metadata = value })))
  end)

  it("raises when it is called wrongly", function()
    assert.error_matches(function() container.seal(options { typo = 1 }) end, "unknown option 'typo'")
    assert.error_matches(function() container.seal(options { archive = 5 }) end, "'archive' must be string, not number")
    assert.error_matches(function() container.seal(options { salt = "short" }) end, "32 bytes")
    assert.error_matches(function() container.seal(options { nonce = ("n"):rep(16) }) end, "12 bytes")
    assert.error_matches(function() container.seal {} end, "must be")
    assert.error_matches(function() container.seal(5) end, "must be a table")
    local ok, message = pcall(function() container.seal {} end)
    assert.is_false(ok)
    assert.truthy(message:find("container_spec.lua", 1, true), message)
  end)
end)

describe("sealing from file to file", function()
  local folder, source, target

  before_each(function()
    folder = tmp.begin()
    source, target = tmp.write(folder .. "/a.zip", archive()), folder .. "/a.ate"
  end)

  after_each(tmp.finish)

  local function from(changes)
    local o = options(changes)
    o.archive, o.archive_path, o.path = nil, o.archive_path or source, o.path or target
    return o
  end

  it("makes the same bytes as in memory", function()
    local fixed = { salt = ("s"):rep(32), nonce = ("n"):rep(12) }
    local sealed = assert(container.seal(options(fixed)))
    local streamed = assert(container.seal_file(from(fixed)))
    assert.equal(table.concat(sealed.parts), tmp.read(target))
    sealed.parts = nil
    assert.same(sealed, streamed)
    assert.equal(384, stat.stat(target).st_mode & 4095)
    assert.equal("./a.ate\n./a.zip\n", tmp.list(folder))
  end)

  it("replaces a file at once", function()
    tmp.write(target, "old")
    assert(container.seal_file(from()))
    assert.equal("ATE1", tmp.read(target):sub(1, 4))
    assert.equal("./a.ate\n./a.zip\n", tmp.list(folder))
  end)

  it("leaves nothing behind when it fails, and the old file as it was", function()
    tmp.write(target, "old")
    local small, odd = tmp.write(folder .. "/small", "x"), folder .. "/odd"
    assert(stat.mkdir(odd))
    local before = tmp.list(folder)
    local cases = {
      { "ENOENT", { archive_path = folder .. "/none" } },
      { "bad_archive", { archive_path = small } },
      { "bad_archive", { archive_path = odd } },
      { "bad_archive", { archive_path = "/dev/zero" } },
      { "bad_licence", { licence = "x" } },
      { "bad_header", { metadata = {} } },
      { "ENOENT", { path = folder .. "/none/a.ate" } },
      { "EISDIR", { path = odd } },
    }
    for _, case in ipairs(cases) do
      local sealed, message, code = container.seal_file(from(case[2]))
      assert.is_nil(sealed)
      assert.equal(case[1], code, message)
      assert.equal(before, tmp.list(folder))
      assert.equal("old", tmp.read(target))
    end
  end)

  it("says so when the disk is full, and leaves nothing behind", function()
    local bytes = tmp.write(folder .. "/big.zip", crypto.random(1 << 20))
    local before = tmp.list(folder)
    local script = tmp.write(folder .. "/limit.lua", ([[
      package.path, package.cpath = %q, %q
      local resource = require "posix.sys.resource"
      local signal = require "posix.signal"
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, { rlim_cur = 300000, rlim_max = 300000 })
      local forge = require "spec.ate.support.forge"
      local sealed, message, code = require("ate.container").seal_file {
        archive_path = %q, path = %q, licence = forge.LICENCE, device_hash = forge.DEVICE,
        metadata = require("atelier.json").decode(forge.METADATA), signer = forge.signer,
      }
      print(sealed, code)
    ]]):format(package.path, package.cpath, bytes, target))
    assert.same({ 0, "nil\tEFBIG\n" }, { tmp.run("lua5.4 " .. script) })
    os.remove(script)
    assert.equal(before, tmp.list(folder))
  end)
end)
