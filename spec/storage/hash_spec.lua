-- What a store really has: the hash of an object's bytes.
local crypto = require "atelier.crypto"
local hash = require "storage.hash"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local unistd = require "posix.unistd"

local BYTES = crypto.random(2500000)
local HASH = crypto.hex(crypto.sha256(BYTES))
local KEY = "generated/D/t_1.ate"

describe("the hash of an object", function()
  local dir

  before_each(function() dir = program.folder() end)
  after_each(function() program.remove(dir) end)

  local function put(store, key, bytes)
    assert(store:wait((assert(store:put(key, { bytes }, {})))))
  end

  it("is that of a file's bytes, in pieces", function()
    local store <close> = assert(storage.open { storage = "local", storage_dir = dir, storage_threads = 1 })
    put(store, KEY, BYTES)
    local sizes = {}
    assert.equal(HASH, hash.of(store, KEY, function(n) sizes[#sizes + 1] = n end))
    assert.same({ 1 << 20, 1 << 20, #BYTES - (2 << 20) }, sizes)
    assert.equal("not_found", select(3, hash.of(store, "generated/D/none.ate")))
    assert.equal("bad_key", select(3, hash.of(store, "../x")))
  end)

  it("is none where the disk does not give the bytes", function()
    local store <close> = assert(storage.open { storage = "local", storage_dir = dir, storage_threads = 1 })
    put(store, KEY, "x")
    local path = dir .. "/" .. KEY
    assert(os.remove(path))
    assert(unistd.link("/proc/self/mem", path, true)) -- opens, and gives EIO for its first page
    local none, message, code = hash.of(store, KEY)
    assert.is_nil(none)
    assert.equal("unreadable", code)
    assert.matches("storage: read " .. KEY, message, 1, true)
  end)

  it("is not what a remote store says of it, but that of what it gives", function()
    local server = stand_in.start()
    local store <close> = assert(storage.open { storage = "supabase", supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY, supabase_bucket = "ate-files", state_dir = dir })
    put(store, KEY, BYTES)
    assert.equal(HASH, hash.of(store, KEY))
    server:control("/rot", { name = KEY, at = 1000 })
    assert.equal(HASH, store:head(KEY).sha256)
    local changed = BYTES:sub(1, 1000) .. string.char(BYTES:byte(1001) ~ 1) .. BYTES:sub(1002)
    assert.equal(crypto.hex(crypto.sha256(changed)), hash.of(store, KEY))
    server:stop()
  end)
end)
