--- What a store behind HTTP must do with a file that is still being written (see storage.growth): the same cases for
-- each driver. Who asks how it is with such a file, writes the next piece of it here: so nothing depends on time.
-- @module spec.storage.growing
local assert = require "luassert"
local contract = require "spec.storage.contract"
local crypto = require "atelier.crypto"
local stat = require "posix.sys.stat"

local M = {}

local PIECE = 1 << 20
local TAIL = 80

-- A source of so many pieces and an end. `fail_at`: after so many it is given up; `removed` says whether by its maker.
local function source(pieces, fail_at, removed)
  local path = os.tmpname()
  local file, piece, hash, count = assert(io.open(path, "wb")), crypto.random(PIECE), crypto.hash(), 0
  file:setvbuf "no"
  local function write(text)
    hash:update(text)
    assert(file:write(text))
  end
  local made = { path = path, size = pieces * PIECE + TAIL }
  function made.state()
    if count == fail_at then
      if removed then
        os.remove(path)
      end
      return false, "the asset was changed", "template"
    elseif made.sha256 then
      return true, made.sha256
    elseif count < pieces then
      write(piece)
      count = count + 1
      return nil
    end
    write(piece:sub(1, TAIL))
    file:close()
    made.sha256 = crypto.hex(hash:digest())
    return nil
  end
  function made.clean()
    pcall(file.close, file)
    os.remove(path)
  end
  return made
end

--- Adds the cases to the `describe` that calls it.
-- @tparam table busted `it` and `finally` of the spec
-- @tparam function open gives a store
function M.test(busted, open)
  local it = busted.it

  local function put(store, made)
    local key = contract.new_key "growing"
    return key, contract.put(store, key, made, {})
  end

  it("sends a file while it is being written", function()
    local store <close> = open()
    local made = source(12)
    local key, ok, message = put(store, made)
    assert.is_true(ok, message)
    assert.equal(made.size, assert(store:head(key)).size)
    assert.equal(made.sha256, contract.sha256(contract.read_all(store, key)))
    assert.is_nil(stat.stat(made.path), "it is taken over")
    assert.equal(1, store:delete { key })
  end)

  it("tells of one that was complete before its hash, too", function()
    local store <close> = open()
    local made = source(1)
    while made.state() == nil do
      assert.is_true(true)
    end
    local key, ok, message = put(store, made)
    assert.is_true(ok, message)
    assert.equal(made.sha256, assert(store:head(key)).sha256)
    assert.equal(1, store:delete { key })
  end)

  it("has nothing of a file that is given up, and says why in its maker's words", function()
    local store <close> = open()
    for _, removed in ipairs { true, false } do
      for _, at in ipairs { 0, 3, 11 } do
        local made = source(12, at, removed)
        local key, none, message, code = put(store, made)
        made.clean()
        assert.is_nil(none)
        assert.equal("template", code)
        assert.matches("the asset was changed", message, 1, true)
        assert.equal("not_found", select(3, store:head(key)))
        assert.same({}, (store:list(key:match "^.*/")))
      end
    end
  end)
end

return M
