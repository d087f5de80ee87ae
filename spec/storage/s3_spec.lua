local contract = require "spec.storage.contract"
local crypto = require "atelier.crypto"
local growing = require "spec.storage.growing"
local program = require "spec.support.program"
local s3 = require "storage.s3"
local swift = require "spec.support.swift"

-- OpenStack Swift's S3 API: it verifies signatures, hashes and the clock.
describe("storage.s3, against Swift", function()
  local server, dir

  setup(function()
    dir = program.folder()
    server = swift.start(dir)
  end)

  teardown(function()
    server:stop()
    program.remove(dir)
  end)

  local function open(settings)
    local config = { state_dir = dir, s3_endpoint = server.endpoint, s3_region = "us-east-1", s3_bucket = "ate-files",
      s3_access_key = "test:tester", s3_secret_key = "testing", s3_style = "path", s3_part_bytes = 5 << 20 }
    for name, value in pairs(settings or {}) do
      config[name] = value
    end
    return assert(s3.open(config))
  end

  contract.test({ it = it, before_each = before_each, after_each = after_each }, open)

  growing.test({ it = it }, open)

  it("sends large files in parts, which nobody sees before the last", function()
    local store <close> = open()
    local key, piece = contract.new_key "large", crypto.random(1 << 20)
    local path = contract.temporary(piece, 12)
    local hash = crypto.hex(crypto.sha256_file(path))
    assert.is_true(contract.put(store, key, path, { sha256 = hash }))
    local found = assert(store:head(key))
    assert.same({ 12 << 20, hash }, { found.size, found.sha256 })
    assert.equal(hash, contract.sha256(contract.read_all(store, key)))
    local again = contract.temporary(piece, 12)
    assert.equal("exists", select(3, contract.put(store, key, again, { sha256 = hash })))
    os.remove(again)
    assert.equal(1, store:delete { key })
  end)

  it("refuses a body that is not what its hash says", function()
    local store <close> = open()
    local key = contract.new_key()
    assert.is_nil((contract.put(store, key, { "bytes" }, { sha256 = contract.sha256 "other bytes" })))
    assert.equal("not_found", select(3, store:head(key)))
  end)

  it("tells wrong keys, regions, buckets and servers apart from an outage", function()
    for _, case in ipairs {
      { { s3_secret_key = "wrong" }, "denied" }, { { s3_access_key = "nobody" }, "denied" },
      { { s3_region = "mars-1" }, "denied" }, { { s3_bucket = "no-such-bucket" }, "no_bucket" },
      { { s3_endpoint = "http://127.0.0.1:1" }, "unavailable" },
    } do
      local store <close> = open(case[1])
      local none, message, code = contract.put(store, contract.new_key(), { "x" }, {})
      assert.is_nil(none)
      assert.equal(case[2], code, message)
      assert.is_nil(message:find("testing", 1, true))
    end
  end)

  it("wants its settings", function()
    for name in pairs { s3_bucket = 1, s3_access_key = 1, s3_secret_key = 1 } do
      local config = { state_dir = dir, s3_region = "r", s3_bucket = "bucket", s3_access_key = "a", s3_secret_key = "s" }
      config[name] = nil
      local none, message, code = s3.open(config)
      assert.is_nil(none)
      assert.same({ ("storage: s3: %s is not set"):format(name), "config" }, { message, code })
    end
  end)
end)
