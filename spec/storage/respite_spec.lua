local respite = require "storage.respite"

describe("storage.respite", function()
  local now, it_has

  before_each(function()
    now = 1000
    it_has = respite.new(function() return now end)
  end)

  it("has the store left alone for as long as it asks, and looks again after a minute at the latest", function()
    assert.is_nil(it_has:left())
    it_has:note("a", "unavailable", 7)
    assert.equal(7, it_has:left())
    now = now + 6.5
    assert.equal(0.5, it_has:left())
    now = now + 0.5
    assert.is_nil(it_has:left())
    it_has:note("a", "unavailable", 300)
    now = now + 59
    assert.equal(241, it_has:left())
    now = now + 1
    assert.is_nil(it_has:left())
  end)

  it("takes a store that names no time for out of order when two objects in a row fail, and no sooner", function()
    for _ = 1, 5 do
      it_has:note("a", "unavailable")
      assert.is_nil(it_has:left())
    end
    it_has:note("b", "unavailable")
    assert.equal(5, it_has:left())
    now = now + 2
    assert.is_nil(it_has:left())
    for _, code in ipairs { false, "not_found", "denied" } do
      it_has:note("b", code)
      it_has:note("a", "unavailable")
      assert.is_nil(it_has:left())
    end
  end)
end)
