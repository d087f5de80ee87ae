local term = require "cli.term"

describe("a bar", function()
  it("shows what is used, as wide as it is told", function()
    for share, expected in pairs { [0] = "····", [1e-9] = "▏···", [0.25] = "█···", [0.5] = "██··", [0.54] = "██▏·", [1] = "████", [7] = "████" } do
      assert.equal(expected, term.bar(share, 4))
    end
    for i = 0, 100 do assert.equal(10, term.width(term.bar(i / 100, 10))) end
  end)
end)

describe("a count", function()
  it("is short", function()
    for n, expected in pairs { [0] = "0", [950] = "950", [1000] = "1 k", [11600] = "11.6 k", [10000000] = "10 M", [123456789] = "123 M",
      [5e9] = "5 G", [5e12] = "5000 G" } do
      assert.equal(expected, term.count(n))
    end
  end)
end)

describe("a wrapped text", function()
  it("stays inside of its column", function()
    local text = term.wrap(("word 日本語 "):rep(40), 16)
    for line in text:gmatch("[^\n]+") do assert.is_true(term.width(line) <= term.screen_width()) end
    assert.equal(("word 日本語 "):rep(40):gsub("%s+", ""), (text:gsub("%s+", "")))
    assert.equal("", term.wrap("", 4))
    assert.equal(("x"):rep(500), term.wrap(("x"):rep(500), 4))
  end)
end)
