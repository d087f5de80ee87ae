local contract = require "spec.storage.contract"
local copy = require "storage.copy"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"
local storage = require "storage"

describe("storage.copy", function()
  local dir, from, to

  before_each(function()
    dir = program.folder()
    from = assert(storage.open { storage_dir = dir .. "/from", storage_threads = 4 })
    to = assert(storage.open { storage_dir = dir .. "/to", storage_threads = 4 })
  end)

  after_each(function()
    from:close()
    to:close()
    program.remove(dir)
  end)

  local function fill(store, objects)
    for key, text in pairs(objects) do
      assert.is_true(contract.put(store, key, { text }))
    end
  end

  it("carries small and large objects over, once", function()
    local large = ("0123456789abcdef"):rep(200000)
    fill(from, { ["generated/a/1.ate"] = "one", ["generated/b/2.ate"] = large, ["other/x"] = "not ours" })
    local seen = 0
    local counts, failures = copy.run { from = from, to = to, on_progress = function() seen = seen + 1 end }
    assert.same({ copied = 2, present = 0, failed = 0, bytes = 3 + #large }, counts)
    assert.same({}, failures)
    assert.equal(2, seen)
    assert.equal("one", contract.read_all(to, "generated/a/1.ate"))
    assert.equal(contract.sha256(large), contract.sha256(contract.read_all(to, "generated/b/2.ate")))
    assert.equal("not_found", select(3, to:head "other/x"))
    assert.same({ copied = 0, present = 2, failed = 0, bytes = 0 }, (copy.run { from = from, to = to }))
    local left = io.popen("ls -A " .. to:staging()):read "a"
    assert.equal("", left)
  end)

  it("counts what is recorded and is not there, and takes what came meanwhile", function()
    fill(from, { ["generated/a/1.ate"] = "one" })
    local pages = { { "generated/a/1.ate", "generated/a/2.ate" }, { "generated/a/3.ate" }, {} }
    local asked = {}
    local counts, failures = copy.run { from = from, to = to, recorded = function(after)
      asked[#asked + 1] = after or "first"
      if not after then
        fill(from, { ["generated/a/2.ate"] = "later" })
      end
      return pages[#asked]
    end }
    assert.same({ copied = 2, present = 0, failed = 1, bytes = 8 }, counts)
    assert.same({ "first", "generated/a/2.ate", "generated/a/3.ate" }, asked)
    assert.equal("generated/a/3.ate", failures[1].key)
    assert.matches("is recorded, but not to be had: ", failures[1].message, 1, true)
    assert.equal("later", contract.read_all(to, "generated/a/2.ate"))
    assert.same({ nil, "gone", "connection" }, { copy.run { from = from, to = to, recorded = function()
      return nil, "gone", "connection"
    end } })
  end)

  -- Stores that have more objects than one would write for a spec.
  it("keeps no list of what there is", function()
    local PAGES <const> = 200
    local function keys_of(page)
      local keys = {}
      for i = 1, page <= PAGES and 1000 or 0 do
        keys[i] = ("generated/%06d/%03d"):format(page, i - 1)
      end
      return keys
    end
    local function following(after)
      return after and tonumber(after:match "/(%d+)/") + 1 or 1
    end
    local stores = { __index = {
      list = function(_, _, after)
        local entries = {}
        for i, key in ipairs(keys_of(following(after))) do
          entries[i] = { key = key, size = 1 }
        end
        return entries
      end,
      head = function() return { size = 1 } end } }
    local least, most = math.huge, 0
    local counts, failures = copy.run { from = setmetatable({}, stores), to = setmetatable({}, stores),
      recorded = function(after)
        if following(after) % 20 == 1 then
          collectgarbage()
          least, most = math.min(least, collectgarbage "count"), math.max(most, collectgarbage "count")
        end
        return keys_of(following(after))
      end }
    assert.same({ copied = 0, present = PAGES * 1000, failed = 0, bytes = 0 }, counts)
    assert.same({}, failures)
    collectgarbage()
    assert.is_true(most - collectgarbage "count" < 4096, ("%.0f KiB were kept"):format(most - collectgarbage "count"))
    assert.is_true(most - least < 4096)
  end)

  it("looks for each recorded one beside what the other store has, and tells of none twice", function()
    local objects, recorded = {}, {}
    for _, name in ipairs { "b", "d", "f", "h" } do
      objects["generated/" .. name .. "/1.ate"] = name
    end
    fill(from, objects)
    fill(to, { ["generated/a/1.ate"] = "only there", ["generated/d/1.ate"] = "longer", ["generated/z/1.ate"] = "too" })
    for i, name in ipairs { "a", "b", "c", "d", "e", "f", "h", "z" } do
      recorded[i] = "generated/" .. name .. "/1.ate"
    end
    local counts, failures = copy.run { from = from, to = to, recorded = function(after)
      if not after then
        fill(from, { ["generated/e/1.ate"] = "meanwhile" })
      end
      return after and {} or recorded
    end }
    assert.same({ copied = 4, present = 0, failed = 2, bytes = 3 + #"meanwhile" }, counts)
    assert.same({ "generated/d/1.ate", "generated/c/1.ate" }, { failures[1].key, failures[2].key })
    assert.equal("meanwhile", contract.read_all(to, "generated/e/1.ate"))
  end)

  it("goes on where it was ended", function()
    local objects = {}
    for i = 1, 30 do
      objects[("generated/d/%02d.ate"):format(i)] = ("x"):rep(i)
    end
    fill(from, objects)
    local ended = pcall(copy.run, { from = from, to = to, on_progress = function(counts)
      if counts.copied == 5 then error "ended" end
    end })
    assert.is_false(ended)
    assert.equal(30, select(2, pcall(function()
      local counts = copy.run { from = from, to = to }
      return counts.copied + counts.present
    end)))
    for key, text in pairs(objects) do
      assert.equal(text, contract.read_all(to, key))
    end
  end)

  it("tells of objects that are not what was recorded, or are there with other bytes, and goes on", function()
    fill(from, { ["generated/a"] = "right", ["generated/b"] = "changed", ["generated/c"] = "short" })
    fill(to, { ["generated/c"] = "longer" })
    local recorded = { ["generated/a"] = contract.sha256 "right", ["generated/b"] = contract.sha256 "original" }
    local counts, failures = copy.run { from = from, to = to, checksums = function(key) return recorded[key] end }
    assert.same({ copied = 1, present = 0, failed = 2, bytes = 5 }, counts)
    assert.same({ "generated/b", "generated/c" }, { failures[1].key, failures[2].key })
    assert.matches("not those that were recorded", failures[1].message, 1, true)
    assert.matches("6 bytes instead of 5", failures[2].message, 1, true)
    assert.equal("not_found", select(3, to:head "generated/b"))
  end)

  it("reads what is there already, where the store tells no hash and it is known what it should be", function()
    fill(from, { ["generated/a"] = "right", ["generated/b"] = "right", ["generated/c"] = "right" })
    fill(to, { ["generated/a"] = "right", ["generated/b"] = "wrong", ["generated/c"] = "wrong" })
    local counts, failures = copy.run { from = from, to = to, checksums = function(key)
      return key ~= "generated/c" and contract.sha256 "right" or nil
    end }
    assert.same({ copied = 0, present = 2, failed = 1, bytes = 0 }, counts)
    assert.equal("generated/b", failures[1].key)
    assert.matches("is there with other bytes than those recorded", failures[1].message, 1, true)
  end)

  it("leaves nothing of a large object that does not go on", function()
    local large = ("0123456789abcdef"):rep(100000)
    fill(from, { ["generated/a"] = large, ["generated/b/c"] = large })
    fill(to, { ["generated/b"] = "in the way of a folder" })
    local counts = copy.run { from = from, to = to, checksums = function(key)
      return key == "generated/a" and contract.sha256 "original" or nil
    end }
    assert.same({ copied = 0, present = 0, failed = 2, bytes = 0 }, counts)
    assert.equal("", io.popen("ls -A " .. to:staging()):read "a")
  end)

  it("says that the objects cannot be listed", function()
    os.execute(("rm -r '%s/from' && touch '%s/from'"):format(dir, dir))
    local none, message = copy.run { from = from, to = to }
    assert.is_nil(none)
    assert.matches("storage: list", message, 1, true)
  end)

  it("stops when a store is out of order for one object after the other, and may be begun again", function()
    local server = stand_in.start()
    finally(function()
      server:stop()
    end)
    local remote <close> = assert(storage.open { storage = "supabase", state_dir = dir, supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY, supabase_bucket = "fresh" })
    local objects, keys = {}, {}
    for i = 1, 30 do
      keys[i] = ("generated/d/%02d.ate"):format(i)
      objects[keys[i]] = "x"
    end
    fill(from, objects)
    -- A store that asks for more patience than a task has is asked once for each object.
    local away = { times = 9, method = "GET", status = 429, headers = { ["retry-after"] = "60" } }
    server:control("/fault", away)
    assert.same({ copied = 21, present = 0, failed = 9, bytes = 21 }, (copy.run { from = from, to = remote }))
    for _, case in ipairs { { 429, "unavailable" }, { 403, "denied" } } do
      away.times, away.status = 1000, case[1]
      server:control("/fault", away)
      server:control "/seen"
      local none, message, code = copy.run { from = from, to = remote }
      assert.is_nil(none)
      assert.equal(case[2], code)
      assert.matches("10 objects in a row failed (0 copied, 0 there already)", message, 1, true)
      assert.matches("begin it again", message, 1, true)
      assert.equal(10, #server:control("/seen").seen)
      server:control "/calm"
    end
    assert.same({ copied = 9, present = 21, failed = 0, bytes = 9 }, (copy.run { from = from, to = remote }))
    -- Away as a source: what is recorded is looked for no further, too.
    local asked = 0
    away.times, away.status = 1000, 429
    server:control("/fault", away)
    local none, message, code = copy.run { from = remote, to = to, prefix = "generated/none/", recorded = function()
      asked = asked + 1
      return asked == 1 and keys or {}
    end }
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("10 objects in a row failed", message, 1, true)
  end)

  it("carries to a store whose bucket the first put makes, and back; a vanished one is no empty one", function()
    local server = stand_in.start()
    finally(function()
      server:stop()
    end)
    local remote <close> = assert(storage.open { storage = "supabase", state_dir = dir, supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY, supabase_bucket = "fresh" })
    local large = ("0123456789abcdef"):rep(100000)
    fill(from, { ["generated/a/1.ate"] = "one", ["generated/b/2.ate"] = large })
    assert.same({ copied = 2, present = 0, failed = 0, bytes = 3 + #large }, (copy.run { from = from, to = remote }))
    -- What is read fails half-way, however often it is asked for: that object fails, the other goes on.
    server:control("/fault", { times = 1000000, method = "GET", after = 4, status = 503 })
    local counts, failures = copy.run { from = remote, to = to }
    server:control "/calm"
    assert.same({ 1, 1 }, { counts.copied, counts.failed })
    assert.matches("status 503", failures[1].message, 1, true)
    assert.equal("", io.popen("ls -A " .. to:staging()):read "a")
    assert.same({ copied = 1, present = 1, failed = 0, bytes = #large }, (copy.run { from = remote, to = to }))
    assert.equal(contract.sha256(large), contract.sha256(contract.read_all(to, "generated/b/2.ate")))
    -- What has the right size there, and is not what was recorded, is no copy.
    local recorded = contract.sha256 "two"
    counts, failures = copy.run { from = from, to = remote, checksums = function(key)
      return key == "generated/a/1.ate" and recorded or nil
    end }
    assert.same({ 1, 1 }, { counts.present, counts.failed })
    assert.equal("generated/a/1.ate", failures[1].key)
    assert.matches("with other bytes than those recorded", failures[1].message, 1, true)
    server:control "/drop-buckets"
    local none, _, code = copy.run { from = remote, to = to }
    assert.is_nil(none)
    assert.equal("no_bucket", code)
  end)
end)
