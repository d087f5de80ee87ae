-- What the fuzzer found (spec/fuzz/run.sh), each by the smallest input that shows it.
local json = require "atelier.json"
local render = require "template.render"

local function compile(text, as)
  return assert(render.compile(text, { as = as, file = "f" }))
end

local function run(text, vars)
  return assert(load(assert(compile(text, "lua"):render(vars)), "=f", "t", {}))()
end

describe("a long bracket with a mark", function()
  -- Which bytes are a pair depends on those before: two passes of gsub read LF CR as two line ends.
  it("keeps the author's line ends as Lua reads them, whatever their form", function()
    for body, seen in pairs { ["a\n\rb"] = "a\nb", ["a\n\r\nb"] = "a\n\nb", ["a\n\r\rb"] = "a\n\nb", ["a\r\n\rb"] = "a\n\nb",
      ["a\r\r\nb"] = "a\n\nb", ["\n\rb"] = "b" } do
      assert.equal(seen, load("return [[" .. body .. "]]")())
      assert.equal(seen .. "x", run("return [[" .. body .. "{{x}}]]", { x = "x" }), ("%q"):format(body))
    end
  end)
end)

describe("a JSON key with a NUL", function()
  -- Legal JSON that jansson refuses: the rendering succeeded and gave what our own decoder would not read.
  it("is refused within a value", function()
    for _, value in ipairs { { ["a\0b"] = 1 }, json.array { { a = { ["\0"] = 1 } } } } do
      local text, message, code = compile("[{{x}}]", "json"):render { x = value }
      assert.is_nil(text)
      assert.equal("template", code)
      assert.matches("f:1:2: {{x}} has a key that holds a NUL", message, 1, true)
    end
  end)

  it("is refused in the place of a key, with the reason", function()
    local text, message = compile('{"{{x}}": "{{x}}"}', "json"):render { x = "a\0b" }
    assert.is_nil(text)
    assert.matches("f:1:3: {{x}} holds a NUL, which the key of a JSON object cannot", message, 1, true)
    assert.equal('{"k": "a\\u0000b"}', compile('{"k": "{{x}}"}', "json"):render { x = "a\0b" })
  end)
end)
