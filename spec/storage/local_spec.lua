local contract = require "spec.storage.contract"
local fs = require "atelier.fs"
local program = require "spec.support.program"
local storage = require "storage"
local utime = require "posix.utime"

describe("storage.local", function()
  local dir, store

  before_each(function()
    dir = program.folder()
    store = assert(storage.open { storage_dir = dir .. "/deep/files", storage_threads = 4 })
  end)

  after_each(function()
    store:close()
    program.remove(dir)
    collectgarbage()
    collectgarbage()
    assert.equal(0, fs.live_handles())
  end)

  local function put(key, ...)
    return store:wait(assert(store:put(key, { ... })))
  end

  it("puts, reads, heads and deletes", function()
    assert.is_true(put("generated/d/smartgram_1.ate", "head", "tail"))
    local file = assert(store:get "generated/d/smartgram_1.ate")
    assert.equal("headtail", file:read "a")
    file:close()
    assert.same({ size = 8 }, store:head "generated/d/smartgram_1.ate")
    assert.equal(1, store:delete { "generated/d/smartgram_1.ate", "generated/d/missing.ate" })
    assert.equal("not_found", select(3, store:get "generated/d/smartgram_1.ate"))
    assert.equal("not_found", select(3, store:head "generated/d"))
  end)

  it("never puts over a key", function()
    assert.is_true(put("k", "old"))
    assert.equal("exists", select(3, put("k", "new")))
    local file = assert(store:get "k")
    assert.equal("old", file:read "a")
    file:close()
  end)

  it("lists in key order, by prefix and after a key, without what is unfinished", function()
    for _, key in ipairs { "a/1", "a/2", "a-b/1", "b/1", "b/2/x", "c" } do
      assert.is_true(put(key, key))
    end
    assert(io.open(store.root .. "/a/.123.tmp", "w")):close()
    store:staging()
    local function keys(...)
      local found = {}
      for i, entry in ipairs(assert(store:list(...))) do
        found[i] = entry.key
      end
      return table.concat(found, " ")
    end
    assert.equal("a-b/1 a/1 a/2 b/1 b/2/x c", keys "")
    assert.equal("a/1 a/2", keys "a/")
    assert.equal("b/2/x c", keys("", "b/1"))
    assert.equal("a-b/1 a/1 a/2", keys "a")
    assert.equal("", keys "zzz")
  end)

  it("orders folders among files as their keys are, and passes over what is no file", function()
    for _, key in ipairs { "p/a-/2", "p/a/1", "p/a-b", "p/a.b", "p/b", "p/a-/1", "q/1" } do
      assert.is_true(put(key, key))
    end
    assert(os.execute(("ln -s b %s/p/link; mkdir %s/p/empty"):format(store.root, store.root)))
    local function keys(...)
      local found = {}
      for i, entry in ipairs(assert(store:list(...))) do
        found[i] = entry.key
      end
      return table.concat(found, " ")
    end
    local all = { "p/a-/1", "p/a-/2", "p/a-b", "p/a.b", "p/a/1", "p/b" }
    assert.equal(table.concat(all, " "), keys "p/")
    for i, key in ipairs(all) do
      assert.equal(table.concat(all, " ", i + 1), keys("p/", key), "after " .. key)
    end
    assert.equal("p/a-/1 p/a-/2", keys "p/a-/")
    assert.equal("p/a-/1 p/a-/2 p/a-b p/a.b p/a/1", keys "p/a")
    assert.equal("p/b", keys("p/", "p/a/2"))
  end)

  it("tells the age of an object, and what was left unfinished, which `clear` removes when it is old", function()
    assert.is_true(put("d/1", "x"))
    local path = store.root .. "/d/"
    for name, age in pairs { ["1"] = 100, [".7.1.tmp"] = 1000, [".7.2.tmp"] = 10, [".x.tmp"] = 1000 } do
      assert(io.open(path .. name, "a")):close()
      assert(utime.utime(path .. name, os.time() - age, os.time() - age))
    end
    local found, unfinished = store:list "d/"
    assert.equal(1, #found)
    assert.is_true(math.abs(found[1].age - 100) <= 30, found[1].age)
    table.sort(unfinished)
    assert.same({ "d/.7.1.tmp", "d/.7.2.tmp" }, unfinished)
    assert.equal(0, store:clear({ "d/1", "d/.x.tmp", "d/../d/.7.1.tmp", ".staging/../d/.7.1.tmp", "" }, 0))
    assert.equal(1, store:clear(unfinished, 500))
    assert.same({ "d/.7.2.tmp" }, select(2, store:list "d/"))
  end)

  it("gives a thousand keys at a time, and all of them in the end", function()
    local tickets = {}
    for i = 1, 1100 do
      tickets[#tickets + 1] = assert(store:put(("d%02d/%d"):format(i % 13, i), { "" }))
      if #tickets == 200 or i == 1100 then
        for _, ticket in ipairs(tickets) do
          assert.is_true(store:wait(ticket))
        end
        tickets = {}
      end
    end
    local count, after = 0, nil
    repeat
      local page = assert(store:list("", after))
      for _, entry in ipairs(page) do
        assert.is_true(after == nil or entry.key > after)
        after = entry.key
      end
      count = count + #page
    until #page == 0
    assert.equal(1100, count)
  end)

  it("refuses keys that are not safe, in every call", function()
    local unsafe = { "", "/x", "../x", "x/../y", "x//y", "x/", ".x", "x/.y", "x\0y", "x y", "é", ("x"):rep(1001) }
    for _, key in ipairs(unsafe) do
      for _, call in ipairs { "put", "get", "head" } do
        local ok, message, code = store[call](store, key, { "x" })
        assert.is_nil(ok)
        assert.equal("bad_key", code)
        assert.matches("is not safe", message, 1, true)
      end
      assert.equal("bad_key", select(3, store:delete { key }))
    end
  end)

  it("says what is wrong with a folder that cannot be written", function()
    assert(io.open(dir .. "/file", "w")):close()
    local none, message, code = storage.open { storage_dir = dir .. "/file/below", storage_threads = 1 }
    assert.is_nil(none)
    assert.matches("^storage: make folder: .*Not a directory", message)
    assert.equal("io", code)
  end)
end)

describe("storage on a read-only file system", function()
  it("fails the put with a reason that an operator understands", function()
    local dir = program.folder()
    program.mount(dir, "size=1m")
    finally(function()
      program.unmount(dir)
      program.remove(dir)
    end)
    local store = assert(storage.open { storage_dir = dir, storage_threads = 1 })
    program.mount(dir, "remount,ro")
    local ok, message, code = store:wait(assert(store:put("k", { "x" })))
    store:close()
    assert.is_nil(ok)
    assert.equal("read_only", code)
    assert.matches("storage: put: k: create: Read-only file system", message, 1, true)
  end)
end)

describe("storage.key", function()
  local id = "0b6f4d0c-0000-4000-8000-000000000000"

  it("holds device, template and artifact", function()
    assert.equal("generated/DEMO-1.x/smartgram_" .. id .. ".ate", storage.key("DEMO-1.x", "smartgram", id))
    assert.is_true(storage.is_safe(storage.key(("d"):rep(128), ("t"):rep(64), id)))
  end)

  it("refuses device hashes and template names outside their alphabets", function()
    for _, hash in ipairs { "", ".hidden", "a/b", "..", "a b", "é", "a\0", "a\n", ("d"):rep(129) } do
      assert.equal("bad_device", select(3, storage.key(hash, "smartgram", id)))
    end
    for _, name in ipairs { "", "Upper", "a/b", "..", "a.b", ("t"):rep(65) } do
      assert.equal("bad_template", select(3, storage.key("d", name, id)))
    end
  end)
end)

describe("storage.local, as any store", function()
  local dir

  setup(function()
    dir = program.folder()
  end)

  teardown(function()
    program.remove(dir)
  end)

  contract.test({ it = it, before_each = before_each, after_each = after_each }, function()
    return assert(storage.open { storage_dir = dir .. "/files", storage_threads = 4 })
  end)
end)
