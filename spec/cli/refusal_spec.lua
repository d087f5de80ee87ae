-- What every command does with words that it cannot take, and with bytes that are not UTF-8.
local json = require "atelier.json"
local program = require "spec.support.program"

describe("atelier refuses", function()
  it("a wrong command line with one JSON object where that is asked for", function()
    for _, words in ipairs {
      { "generate" }, { "generate", "--device" }, { "open", "x.ate", "--nonsense" }, { "queue" }, { "nonsense" }, {},
      { "queue", "list", "--limit", "many" },
    } do
      words[#words + 1] = "--json"
      local code, out = program.run(words)
      assert.equal(2, code)
      local object = assert(json.decode(out), out)
      assert.is_false(object.ok)
      assert.equal("usage", object.code)
      assert.is_true(#object.message > 5)
      assert.same(json.array {}, object.warnings)
    end
  end)

  it("a wrong command line with the usage of the command, for a person", function()
    local code, out, err = program.run { "generate" }
    assert.equal(2, code)
    assert.equal("", out)
    assert.matches("Usage: atelier generate", err, 1, true)
    assert.matches("missing option '--device'", err, 1, true)
  end)

  it("names that are not UTF-8 with an object that is", function()
    local code, out = program.run { "open", "/nonexistent/\xff\xe3\x81.ate", "--device", "D", "--license", "K", "--json" }
    local object = assert(json.decode(out), out)
    assert.equal(1, code)
    assert.equal("ENOENT", object.code)
    assert.matches("/nonexistent/\u{FFFD}\u{FFFD}\u{FFFD}.ate", object.message, 1, true)
  end)
end)
