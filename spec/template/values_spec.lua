local json = require "atelier.json"
local nasty = require "spec.support.nasty_values"
local values = require "template.values"

local function eval(text)
  return assert(load("return " .. text, "=value", "t", {}))()
end

describe("values", function()
  it("become literals that are the value", function()
    for _, case in ipairs(nasty.finite) do
      assert.truthy(nasty.same(case.value, eval(assert(values.expression(case.value)))), case.name)
    end
  end)

  it("become literals of one line, whose order does not depend on chance", function()
    local object = { b = 1, a = { d = "x\n", c = json.array { 1.5, -2 } } }
    local text = '{["a"] = {["c"] = {1.5, (-2)}, ["d"] = "x\\010"}, ["b"] = 1}'
    assert.equal(text, values.expression(object))
    assert.equal('{"a": {"c": [1.5, -2], "d": "x\\n"}, "b": 1}', values.json_value(object))
    for _, case in ipairs(nasty.finite) do assert.is_nil(values.expression(case.value):find("[\r\n]")) end
  end)

  it("are written as a person would write them", function()
    assert.equal("0.1", values.plain(0.1))
    assert.equal("3.0", values.plain(3.0))
    assert.equal("-0.0", values.plain(-0.0))
    assert.equal("9007199254740993", values.plain(9007199254740993))
    assert.equal("(-9223372036854775807-1)", values.expression(math.mininteger))
    assert.equal('"日本 \\"x\\" \\\\ \\000\\255"', '"日本 \\"x\\" \\\\ \\000\\255"')
    assert.equal('"日本\\0001"', values.expression("日本\0001"))
    assert.equal('"\\2551"', values.expression("\2551"))
    assert.equal('"\\u0000 日本 \\\\ \\""', values.json_value('\0 日本 \\ "'))
  end)

  it("fit beside many locals, however wide", function()
    local locals = {}
    for i = 1, 199 do locals[i] = ("local v%d = %d "):format(i, i) end
    for _, case in ipairs(nasty.finite) do
      local text = values.expression(case.value)
      if #text < 200000 then
        local chunk, why = load(table.concat(locals) .. "return " .. text, "=value", "t", {})
        assert.truthy(chunk, case.name .. ": " .. tostring(why))
      end
    end
  end)

  it("are refused with a reason where nothing can carry them", function()
    for _, case in ipairs(nasty.impossible) do
      for _, writer in ipairs { "plain", "quoted", "quoted_after_z", "expression", "json_string", "json_value" } do
        local text, reason = values[writer](case.value)
        assert.is_nil(text, case.name .. " by " .. writer)
        assert.equal("string", type(reason))
      end
    end
    assert.same({ nil, "is null, which has no text form" }, { values.quoted(json.null) })
    assert.same({ nil, "is a list, which has no text form" }, { values.quoted({ 1 }) })
    assert.same({ nil, "is not UTF-8 (byte 2), and JSON carries nothing else" }, { values.json_string("a\xff") })
  end)
end)
