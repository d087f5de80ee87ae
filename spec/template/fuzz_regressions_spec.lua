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

describe("the oracles of the fuzzer", function()
  package.loaded.fuzz = { feature = function() end, watch = function() end } -- harness.c's, which counts
  local seeds = require "spec.fuzz.seeds"

  -- A template in words or choices (see spec/fuzz/input.lua) and up to three values, from a generator that always gives the same.
  local state = 20250101
  local function random(n)
    state = (state * 6364136223846793005 + 1442695040888963407)
    return (state >> 33) % n
  end

  local function bytes(n)
    local out = {}
    for i = 1, n do out[i] = string.char(random(255)) end
    return table.concat(out)
  end

  local function sentence(kind, length)
    local out = { kind .. bytes(random(length) + 1) }
    for _ = 1, random(4) do out[#out + 1] = "\xff\xff" .. ("s]\n[-\"\\"):sub(1, random(8)) .. "q" .. bytes(2) end
    return table.concat(out)
  end

  for language, count in pairs { lua = 1500, json = 1500 } do
    it("find no fault in their seeds and in sentences of " .. language, function()
      local oracle = require("spec.fuzz.target_" .. language)
      for _, seed in ipairs(seeds[language]) do oracle(seed) end
      for _ = 1, count do
        oracle(sentence("\1", 9))
        oracle(sentence("\2", 40))
      end
    end)
  end

  it("find no fault in the seeds of VARS.json, of JSON, of manifests and of ZIP", function()
    for _, target in ipairs { "vars", "jsondec", "manifest" } do
      local oracle = require("spec.fuzz.target_" .. target)
      for _, seed in ipairs(seeds[target]) do oracle(seed) end
    end
    local oracle = require "spec.fuzz.target_zip"
    for _, seed in ipairs(seeds.zip()) do oracle(seed) end
  end)
end)
