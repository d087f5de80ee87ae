--- What every store must do, see `storage`: the same cases for each driver.
--
-- `contract.test(busted, open)`: `open(settings)` gives a store over an empty place, with what the driver needs; settings are its
-- own keys of the configuration. Keys are new in each case, so that a store may be shared.
-- @module spec.storage.contract
local assert = require "luassert"
local crypto = require "atelier.crypto"

local M = {}

local count = 0

local function new_key(name)
  count = count + 1
  return ("generated/dev-%s/%s_%s.ate"):format(crypto.hex(crypto.random(6)), name or "t", count)
end

local function sha256(text)
  return crypto.hex(crypto.sha256(text))
end

local function temporary(text, times)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  for _ = 1, times or 1 do
    assert(file:write(text))
  end
  file:close()
  return path
end

local function read_all(store, key)
  local handle = assert(store:get(key))
  local parts = {}
  while true do
    local data, message = handle:read(1 << 16)
    assert(data or not message, message)
    if not data then
      break
    end
    parts[#parts + 1] = data
  end
  handle:close()
  return table.concat(parts)
end

local function put(store, key, source, options)
  local ticket, message, code = store:put(key, source, options)
  if not ticket then
    return nil, message, code
  end
  return store:wait(ticket, 60)
end

--- Adds the cases to the `describe` that calls it.
-- @tparam table busted what a spec file sees as globals: `it`, `before_each`, `after_each`
-- @tparam function open see above
function M.test(busted, open)
  local it, before_each, after_each = busted.it, busted.before_each, busted.after_each
  local store

  before_each(function()
    store = open()
  end)

  after_each(function()
    store:close()
  end)

  it("tells at once whether a put is done, and that once", function()
    local function polled(ticket)
      local deadline = os.time() + 60
      while true do
        local ok, message, code = store:poll(ticket)
        if code ~= "timeout" then
          return ok, message, code
        end
        assert(os.time() < deadline, "never done")
        store:head "generated/none" -- carries what is under way on
      end
    end
    local key = new_key()
    local ticket = assert(store:put(key, { "bytes" }, {}))
    assert.is_true(polled(ticket))
    assert.is_false((pcall(store.poll, store, ticket)))
    assert.equal(5, assert(store:head(key)).size)
    local ok, message, code = polled((assert(store:put(key, { "another" }, {}))))
    assert.is_nil(ok)
    assert.equal("exists", code, message)
  end)

  it("gives back what was put, by head, whole and in pieces", function()
    local key, bytes = new_key(), crypto.random(300001)
    assert.is_true(put(store, key, { bytes:sub(1, 7), "", bytes:sub(8) }, { sha256 = sha256(bytes) }))
    assert.equal(300001, assert(store:head(key)).size)
    assert.equal(sha256(bytes), sha256(read_all(store, key)))
    local handle = assert(store:get(key))
    assert.equal(299990, handle:seek("set", 299990))
    assert.equal(bytes:sub(-11), handle:read(100))
    assert.is_nil(handle:read(100))
    handle:close()
  end)

  it("takes an empty object", function()
    local key = new_key()
    assert.is_true(put(store, key, { "" }, { sha256 = sha256 "" }))
    assert.equal(0, assert(store:head(key)).size)
    assert.equal("", read_all(store, key))
  end)

  it("takes a file over", function()
    local key, path = new_key(), temporary("some bytes ", 20000)
    assert.is_true(put(store, key, path, { sha256 = sha256(("some bytes "):rep(20000)) }))
    assert.is_nil(io.open(path))
    assert.equal(220000, #read_all(store, key))
  end)

  it("never replaces an object", function()
    local key = new_key()
    assert.is_true(put(store, key, { "first" }, { sha256 = sha256 "first" }))
    local path = temporary "second"
    for _, source in ipairs { { "second" }, path } do
      local none, message, code = put(store, key, source, { sha256 = sha256 "second" })
      assert.is_nil(none)
      assert.equal("exists", code)
      assert.matches(key, message, 1, true)
    end
    os.remove(path)
    assert.equal("first", read_all(store, key))
  end)

  it("says of what is missing that it is", function()
    for _, operation in ipairs { "head", "get" } do
      local none, message, code = store[operation](store, new_key "missing")
      assert.is_nil(none)
      assert.equal("not_found", code)
      assert.matches("missing", message, 1, true)
    end
    assert.equal(0, store:delete { new_key(), new_key() })
  end)

  it("refuses keys that are not safe", function()
    for _, key in ipairs { "", "/a", "a//b", "../a", "a/../b", "a/.", ".a", "a b", "a\0b", "a\nb", "ä", "a%2fb", "a\\b", "a?b",
      "a#b", ("a"):rep(1001), "a/" } do
      for _, call in ipairs { { "put", { "x" } }, { "head" }, { "get" } } do
        local none, _, code = store[call[1]](store, key, call[2])
        assert.is_nil(none, key)
        assert.equal("bad_key", code, key)
      end
      assert.equal("bad_key", select(3, store:delete { new_key(), key }))
    end
  end)

  it("deletes", function()
    local keys = { new_key(), new_key(), new_key() }
    for i = 1, 2 do
      assert.is_true(put(store, keys[i], { "x" }, {}))
    end
    assert.equal(2, store:delete(keys))
    assert.equal("not_found", select(3, store:head(keys[1])))
    assert.equal(0, store:delete(keys))
    assert.equal(0, store:delete {})
  end)

  it("lists in the order of keys, with sizes and ages, after a key, below a prefix", function()
    local prefix = "generated/list-" .. crypto.hex(crypto.random(6))
    local names = { "/a.ate", "/b/c.ate", "/b-d.ate", "/b.ate", "2/e.ate" }
    for i, name in ipairs(names) do
      assert.is_true(put(store, prefix .. name, { ("x"):rep(i) }, {}))
    end
    local entries = assert(store:list(prefix .. "/"))
    local found = {}
    for i, entry in ipairs(entries) do
      found[i] = { entry.key:sub(#prefix + 1), entry.size }
      assert.is_true(entry.age >= -5 and entry.age < 3600, entry.age)
    end
    assert.same({ { "/a.ate", 1 }, { "/b-d.ate", 3 }, { "/b.ate", 4 }, { "/b/c.ate", 2 } }, found)
    entries = assert(store:list(prefix .. "/", prefix .. "/b.ate"))
    assert.same({ prefix .. "/b/c.ate", nil }, { entries[1].key, entries[2] })
    assert.same({}, (store:list(prefix .. "/", prefix .. "/b/c.ate")))
    assert.same({}, (store:list "generated/none/"))
  end)

  it("has many puts in flight", function()
    local tickets, keys = {}, {}
    for i = 1, 24 do
      keys[i] = new_key "many"
      tickets[i] = assert(store:put(keys[i], { tostring(i), ("x"):rep(i * 100) }, {}))
    end
    for i = 24, 1, -1 do
      assert.is_true(store:wait(tickets[i], 60))
    end
    assert.equal(tostring(17) .. ("x"):rep(1700), read_all(store, keys[17]))
    assert.equal(24, store:delete(keys))
  end)

  it("gives a folder for large files, private", function()
    local folder = store:staging()
    local info = require("posix.sys.stat").stat(folder)
    assert.equal(448, info.st_mode & 511)
  end)
end

M.new_key, M.put, M.read_all, M.temporary, M.sha256 = new_key, put, read_all, temporary, sha256

return M
