local diagnostic = require "template.diagnostic"

describe("a diagnosis", function()
  it("shows file, line, column, the line, a caret and a hint", function()
    assert.equal("f.lua:2:3: no\n  abcdef\n    ^~\n  do this",
      diagnostic.format({ pos = 6, length = 2, message = "no", hint = "do this" }, "xy\nabcdef\n", "f.lua"))
  end)

  it("counts lines as Lua does, and characters, not bytes", function()
    local text = "a\r\nb\rc\n\rd\n\ne"
    local lines = {}
    for pos = 1, #text do
      local line, column = diagnostic.locate(text, pos)
      if not text:sub(pos, pos):find("[\r\n]") then lines[#lines + 1] = text:sub(pos, pos) .. line .. ":" .. column end
    end
    assert.same({ "a1:1", "b2:1", "c3:1", "d4:1", "e6:1" }, lines)
    assert.equal(3, select(2, diagnostic.locate("日本x", 7)))
    for line = 1, 6 do
      local start = diagnostic.line_start(text, line)
      if line ~= 5 then assert.equal(line, (diagnostic.locate(text, start))) end
    end
  end)

  it("puts the caret under wide characters and tabs", function()
    assert.equal("f:1:4: m\n  日本\tx\n      \t^", diagnostic.format({ pos = 8, message = "m" }, "日本\tx", "f"))
  end)

  it("lets no control character and no bytes that are no text through", function()
    local shown = diagnostic.format({ pos = 1, message = "m" }, "\27[31m\0\u{202e}x\u{9b}", "f")
    assert.is_nil(shown:find("[%z\27]"))
    assert.is_nil(shown:find("\u{202e}", 1, true))
    assert.is_truthy(utf8.len(diagnostic.format({ pos = 2, message = "m" }, "a\xff\xfe", "f")))
  end)

  it("shows the part of a long line that matters", function()
    local shown = diagnostic.format({ pos = 50001, length = 3, message = "m" }, ("x"):rep(50000) .. "BAD" .. ("y"):rep(50000), "f")
    assert.truthy(#shown < 400)
    local line, caret = shown:match("\n  ([^\n]*)\n  ([^\n]*)")
    assert.equal("BAD", line:sub(caret:find("^", 1, true), caret:find("^", 1, true) + 2))
    assert.truthy(line:find("^%.%.%.") and line:find("%.%.%.$"))
  end)

  it("lists many, in order, and stops in time", function()
    local list = {}
    for i = 30, 1, -1 do list[#list + 1] = { pos = i, message = "m" .. i } end
    local report = diagnostic.report(list, ("x"):rep(40), "f")
    assert.truthy(report:find("f:1:1: m1\n", 1, true) == 1)
    assert.matches("f: and 10 more$", report)
  end)
end)
