local json = require "atelier.json"
local nasty = require "spec.support.nasty_values"
local vars = require "template.vars"

local function value(text)
  local read, message, code = vars.read('{"x": ' .. text .. "}")
  if not read then return nil, message, code end
  return read.x
end

describe("VARS.json", function()
  it("gives every kind of value, integers and floats apart", function()
    assert.equal("integer", math.type(value "1"))
    assert.equal("float", math.type(value "1.0"))
    assert.equal("float", math.type(value "1e2"))
    assert.equal(-5, value "-5")
    assert.equal(0, value "-0")
    assert.equal("-inf", tostring(1 / value "-0.0"))
    assert.equal(math.maxinteger, value "9223372036854775807")
    assert.equal(math.mininteger, value "-9223372036854775808")
    assert.equal(9007199254740993, value "9007199254740993")
    assert.equal(1e308, value "1E+308")
    assert.equal(0.0, value "0e-5")
    assert.is_true(value "true")
    assert.is_false(value "false")
    assert.equal(json.null, value "null")
    assert.same({ 1, "2", { a = {} } }, value '[1, "2", {"a": {}}]')
  end)

  it("keeps empty lists and empty objects apart", function()
    assert.equal(json.array_mt, getmetatable(value "[]"))
    assert.is_nil(getmetatable(value "{}"))
  end)

  it("takes bytes as they stand", function()
    for byte = 0, 255 do
      local char = string.char(byte)
      if char ~= '"' and char ~= "\\" then assert.equal("a" .. char .. "b", value('"a' .. char .. 'b"')) end
    end
    assert.equal('"\\/\b\f\n\r\t', value [["\"\\\/\b\f\n\r\t"]])
    assert.equal("A\0é\u{1f451}", value [["\u0041\u0000\u00e9\ud83d\udc51"]])
  end)

  it("reads what JSON itself writes", function()
    for _, case in ipairs(nasty.finite) do
      local text = json.encode { x = case.value }
      if text then assert.truthy(nasty.same(case.value, vars.read(text).x), case.name) end
    end
  end)

  it("leaves the judgement of NaN and infinity to the renderer", function()
    assert.not_equal(value "NaN", value "NaN")
    assert.not_equal(value "-NaN", value "-NaN")
    assert.equal(math.huge, value "Infinity")
    assert.equal(-math.huge, value "-Infinity")
    assert.equal(-math.huge, value "[-Infinity]"[1])
  end)

  it("takes a byte order mark and blanks around", function()
    assert.same({ a = 1 }, vars.read '\xEF\xBB\xBF \r\n{"a"\t:1} \n')
    assert.same({}, vars.read "{}")
  end)

  it("refuses what is no object of JSON, and says where", function()
    local CASES = {
      [""] = "1:1: an object expected", ["[]"] = "1:1: an object", ["1"] = "1:1: an object", ["{"] = "key in quotes",
      ['{"a"}'] = "1:5: a colon", ['{"a":}'] = "1:6: no JSON value", ['{"a":1,}'] = "1:8: a key", ['{"a":1'] = "a comma or }",
      ['{"a":1} x'] = "1:9: text after", ['{"a":1}{}'] = "text after", ['{"a":1,"a":2}'] = "1:8: a key that was there",
      ['{"a":null,"a":2}'] = "there before", ["{a:1}"] = "1:2: a key in quotes", ['{"a":"b}'] = "1:6: unfinished string",
      ['{"a":"\\q"}'] = "1:7: invalid escape", ['{"a":"\\u12"}'] = "four hex digits", ['{"a":"\\ud800"}'] = "high surrogate alone",
      ['{"a":"\\udc00"}'] = "low surrogate alone", ['{"a":"\\ud800\\u0041"}'] = "high surrogate alone",
      ['{"a":01}'] = "no JSON value", ['{"a":1.}'] = "no JSON value", ['{"a":.5}'] = "no JSON value", ['{"a":+1}'] = "no JSON value",
      ['{"a":1e}'] = "no JSON value", ['{"a":1.e5}'] = "no JSON value", ['{"a":0x10}'] = "no JSON value", ['{"a":-}'] = "no JSON value",
      ['{"a":1e999}'] = "too large", ['{"a":-1e999}'] = "too large", ['{"a":9223372036854775808}'] = "outside of 64 bits",
      ['{"a":nan}'] = "no JSON value", ['{"a":+Infinity}'] = "no JSON value", ['{"a":tru}'] = "no JSON value", ['{"a":[1 2]}'] = "a comma or ]",
      ['{"a":[1,]}'] = "1:9: no JSON value", ["\n{\n  \"a\" 1}"] = "3:7: a colon", ['{"a":1,,}'] = "a key", ["{'a':1}"] = "a key in quotes",
      ['{"a":"' .. "b\n" .. '"} x'] = "text after", ["// c\n{}"] = "an object", ['{"a":--1}'] = "no JSON value", ['{"a":1-1}'] = "no JSON value",
      ['{"a":' .. ("["):rep(2000)] = "nested more than 1000",
    }
    for text, wanted in pairs(CASES) do
      local read, message, code = vars.read(text, "V.json")
      assert.is_nil(read, text)
      assert.equal("vars", code)
      assert.truthy(message:find(wanted, 1, true), text .. "\n" .. message)
      assert.matches("^V.json:%d+:%d+: ", message)
    end
  end)

  it("refuses every beginning of a text", function()
    local text = '{"a": [1, -2.5e3, "x\\u00e9\\n", null, true, {"b": NaN}], "c": {}}'
    assert.truthy(vars.read(text))
    for length = 0, #text - 1 do assert.is_nil((vars.read(text:sub(1, length)))) end
  end)
end)
