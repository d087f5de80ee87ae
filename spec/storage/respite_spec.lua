local respite = require "storage.respite"

describe("storage.respite", function()
  local now, it_has

  before_each(function()
    now = 1000
    it_has = respite.new(function() return now end)
  end)

  it("has an object left alone for as long as the store asks, and looks again after a minute at the latest", function()
    assert.is_nil(it_has:left "a")
    it_has:note("a", "unavailable", 7)
    assert.equal(7, it_has:left "a")
    now = now + 6.5
    assert.equal(0.5, it_has:left "a")
    now = now + 0.5
    assert.is_nil(it_has:left "a")
    it_has:note("a", "unavailable", 300)
    now = now + 59
    assert.equal(241, it_has:left "a")
    now = now + 1
    assert.is_nil(it_has:left "a")
  end)

  it("has others asked for, whatever time the store names for one, and for one again and again", function()
    for _ = 1, 3 do
      it_has:note("a", "unavailable", 60)
      assert.is_nil(it_has:left "b")
    end
    -- Some that cannot be had do not close a store that has others.
    for i = 1, 20 do
      it_has:note("good" .. i, false)
      now = now + 1
      it_has:note("bad" .. i, "unavailable", 60)
      it_has:note("worse" .. i, "unavailable", 60)
      assert.is_nil(it_has:left "b")
      assert.equal(60, it_has:left("bad" .. i))
    end
  end)

  it("has all of a store left alone that asks for it twice, but for a look now and then", function()
    it_has:note("a", "unavailable", 40)
    it_has:note("b", "unavailable", 40)
    assert.equal(40, it_has:left "c")
    now = now + 9.5
    it_has:note("d", "unavailable") -- was asked for before; it names no time, and takes none away
    assert.equal(30.5, it_has:left "c")
    now = now + 0.5
    assert.equal(30, it_has:left "a")
    assert.is_nil(it_has:left "c")
    assert.equal(30, it_has:left "e", "one that looks is enough")
    it_has:note("c", "unavailable", 40)
    now = now + 9
    assert.equal(31, it_has:left "e")
    now = now + 1
    assert.is_nil(it_has:left "e")
    it_has:note("e", false)
    assert.is_nil(it_has:left "f")
    assert.equal(30, it_has:left "c", "it was asked for itself")
  end)

  it("takes a store that names no time for out of order when two objects in a row fail, and no sooner", function()
    for _ = 1, 5 do
      it_has:note("a", "unavailable")
      assert.is_nil(it_has:left "a")
    end
    it_has:note("b", "unavailable")
    assert.equal(5, it_has:left "a")
    now = now + 2
    assert.is_nil(it_has:left "a")
    for _, code in ipairs { false, "not_found", "denied" } do
      it_has:note("b", code)
      it_has:note("a", "unavailable")
      assert.is_nil(it_has:left "a")
    end
    it_has:note("b", "unavailable")
    assert.is_nil(it_has:left "a", "one was had a moment ago")
    now = now + 2
    it_has:note("a", "unavailable")
    assert.equal(5, it_has:left "b")
  end)

  it("remembers no more objects than it should", function()
    for i = 1, 2500 do
      it_has:note("good", false)
      it_has:note("bad" .. i, "unavailable", 60)
    end
    assert.is_nil(it_has:left "bad1")
    assert.equal(60, it_has:left "bad2500")
    local count = 0
    for _ in pairs(it_has.objects) do
      count = count + 1
    end
    assert.is_true(count <= 1000)
  end)
end)
