local json = require "atelier.json"

local function encoded(value, options)
  local text, message = json.encode(value, options)
  return assert(text, message)
end

local function refused_encode(value)
  local text, message, code = json.encode(value)
  assert.is_nil(text)
  assert.equal("json", code)
  return message
end

local function refused_decode(text, options)
  local value, message, code = json.decode(text, options)
  assert.is_nil(value)
  assert.equal("json", code)
  return message
end

describe("atelier.json", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, json.live_handles())
  end)

  describe("decode", function()
    it("takes every kind of value at the top", function()
      assert.equal(1, json.decode("1"))
      assert.equal("x", json.decode(' "x" '))
      assert.is_true(json.decode("true"))
      assert.is_false(json.decode("false"))
      assert.equal(json.null, json.decode("null"))
      assert.same({ a = { b = "c" } }, json.decode('{"a":{"b":"c"}}'))
    end)

    it("keeps integers and floats apart", function()
      assert.equal("integer", math.type(json.decode("1")))
      assert.equal("float", math.type(json.decode("1.0")))
      assert.equal("float", math.type(json.decode("1e2")))
      assert.equal(math.maxinteger, json.decode("9223372036854775807"))
      assert.equal(math.mininteger, json.decode("-9223372036854775808"))
    end)

    it("marks arrays, the empty one too", function()
      local value = json.decode('{"a":[],"b":{},"c":[null,1]}')
      assert.is_true(json.is_array(value.a))
      assert.is_false(json.is_array(value.b))
      assert.equal(json.null, value.c[1])
      assert.equal(json.array_mt, getmetatable(value.c))
      assert.equal('{"a":[],"b":{},"c":[null,1]}', encoded(value))
    end)

    it("reads escapes, pairs of surrogates and NUL in values", function()
      assert.equal("\0", json.decode('"\\u0000"'))
      assert.equal("\u{1F600}", json.decode('"\\ud83d\\ude00"'))
      assert.equal('"\\/\b\f\n\r\t', json.decode('"\\"\\\\\\/\\b\\f\\n\\r\\t"'))
    end)

    it("refuses what is not strict JSON, with the place", function()
      local cases = {
        { '{"a":1,"a":2}', "decode: 1:10: duplicate object key" },
        { '{"a":{"b":1,"c":2,"b":3}}', "duplicate object key" },
        { '{"a\\u0000":1}', "NUL" },
        { "NaN" }, { "Infinity" }, { "-Infinity" }, { "nan" }, { "0x10" }, { "+1" }, { "01" }, { "-" }, { "1." },
        { ".5" }, { "1e" }, { "1e999", "real number overflow" }, { "-1e999", "overflow" },
        { "9223372036854775808", "too big" }, { "-9223372036854775809", "too big" },
        { "1 2", "decode: 1:3: end of file expected" }, { "[1]]" }, { "[1]\0" }, { "\0" }, { "[1,]" }, { '{"a":1,}' },
        { "[1 2]" }, { '{"a" 1}' }, { "{a:1}" }, { "{1:1}" }, { "'a'" }, { "// x\n1" }, { "/* */1" }, { "" }, { "  " },
        { "[" }, { "{" }, { '"' }, { '"\\' }, { '"\\x"' }, { '"\\u12"' }, { '"a\nb"' }, { '"a\0b"' }, { '"\t"' },
        { "tru" }, { "TRUE" },
        { '"\xff"' }, { '"\xc0\x80"' }, { '"\xed\xa0\x80"' }, { '"\xf4\x90\x80\x80"' },
        { '"\xe2\x82"' }, { "\xef\xbb\xbf1" },
        { '"\\ud800"' }, { '"\\udc00"' }, { '"\\ud800\\u0041"' },
        { "[\n1,\n  x]", "decode: 3:3: " },
      }
      for _, case in ipairs(cases) do
        local message = refused_decode(case[1])
        assert.truthy(message:find("^decode: %d+:%d+: [^\n]+$"), case[1] .. " gave " .. message)
        assert.truthy(message:find(case[2] or "", 1, true), message)
      end
    end)

    it("refuses a NUL byte anywhere", function()
      for _, text in ipairs { "1\0", "1\0 ", "[1\0,2]", "[true\0]", '{"a":null\0}', '{"a":1.5\0}', "\0001", '["a"\0]' } do
        assert.truthy(refused_decode(text):find("NUL byte$"), text)
      end
      assert.equal("decode: 2:4: NUL byte", refused_decode('[\n"\u{e9}"\0]'))
    end)

    it("does not quote the input in messages", function()
      for _, text in ipairs { '{"token":secret}', '{"secret":1,"secret":2}', "[1 secret]", '["secret" "secret"]' } do
        assert.is_nil(refused_decode(text):find("secret", 1, true))
      end
    end)

    it("limits the depth and says where", function()
      assert.truthy(json.decode(("["):rep(200) .. ("]"):rep(200)))
      assert.equal("decode: 1:201: more than 200 levels deep", refused_decode(("["):rep(201) .. ("]"):rep(201)))
      assert.equal("decode: 2:5: more than 1 levels deep", refused_decode('{\n"a":[]}', { max_depth = 1 }))
      assert.truthy(json.decode('{"[[[[{{{{":"\\"[[[[","b":1}', { max_depth = 1 }))
      assert.truthy(json.decode(('{"a":'):rep(1000) .. "1" .. ("}"):rep(1000), { max_depth = 1000 }))
      assert.truthy(refused_decode(("["):rep(1000000)):find("200 levels", 1, true))
      assert.equal(1000, #json.decode("[" .. ("[],"):rep(999) .. "[]]", { max_depth = 2 }))
      refused_decode('"\\')
    end)

    it("raises for wrong arguments", function()
      assert.error_matches(function() json.decode() end, "string expected")
      assert.error_matches(function() json.decode(1) end, "string expected")
      assert.error_matches(function() json.decode("1", { depth = 1 }) end, "unknown option 'depth'")
      assert.error_matches(function() json.decode("1", { max_depth = "1" }) end, "must be an integer")
      assert.error_matches(function() json.decode("1", { max_depth = 0 }) end, "1 to 1000")
      assert.error_matches(function() json.decode("1", { max_depth = 1001 }) end, "1 to 1000")
      assert.error_matches(function() json.decode("1", 5) end, "table expected")
    end)
  end)

  describe("encode", function()
    it("sorts keys bytewise at every level", function()
      local value = {}
      for _, key in ipairs { "b", "a", "ab", "", "B", "\u{e9}", "a b", "z", "10", "9" } do
        value[key] = { y = 1, x = 2 }
      end
      local inner = '{"x":2,"y":1}'
      local want = {}
      for _, key in ipairs { "", "10", "9", "B", "a", "a b", "ab", "b", "z", "\u{e9}" } do
        want[#want + 1] = ('"%s":%s'):format(key, inner)
      end
      assert.equal("{" .. table.concat(want, ",") .. "}", encoded(value))
    end)

    it("is exact for integers", function()
      for _, n in ipairs { 0, 1, -1, 2 ^ 53 | 0, (2 ^ 53 | 0) + 1, math.maxinteger, math.mininteger } do
        assert.equal(("%d"):format(n), encoded(n))
        assert.equal(n, json.decode(encoded(n)))
      end
    end)

    it("writes the shortest float that reads back, and it stays a float", function()
      local cases = {
        { 1.0, "1.0" }, { -1.0, "-1.0" }, { 0.1, "0.1" }, { 1e308, "1e+308" }, { 5e-324, "5e-324" }, { 1e15, "1e+15" },
        { 123456.0, "123456.0" }, { 0.1 + 0.2, "0.30000000000000004" }, { 2.0 ^ 53, "9007199254740992.0" },
        { 1e100, "1e+100" }, { 1 / 3, "0.3333333333333333" }, { 2.2250738585072014e-308, "2.2250738585072014e-308" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" }, { 1e-5, "1e-05" }, { 1e22, "1e+22" },
      }
      for _, case in ipairs(cases) do assert.equal(case[2], encoded(case[1])) end
      assert.equal("-0.0", encoded(-0.0))
      assert.equal("-0.0", encoded(json.decode("-0.0")))
    end)

    it("gives back any float bit for bit", function()
      local seed = 88172645463325252
      for _ = 1, 20000 do
        seed = seed ~ (seed << 13)
        seed = seed ~ (seed >> 7)
        seed = seed ~ (seed << 17)
        local x = string.unpack("d", string.pack("j", seed))
        if x == x and math.abs(x) < math.huge then
          local y = json.decode(encoded(x))
          assert.equal("float", math.type(y))
          assert.equal(string.pack("d", x), string.pack("d", y))
        end
      end
    end)

    it("escapes what must be escaped and nothing else", function()
      assert.equal('"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\x7f"', encoded('"\\/\b\f\n\r\t\0\1\31\x7f'))
      assert.equal('"\u{2028}\u{2029}\u{e9}\u{1F600}"', encoded("\u{2028}\u{2029}\u{e9}\u{1F600}"))
    end)

    it("knows well-formed UTF-8 (RFC 3629)", function()
      local good = { "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10000}", "\u{10ffff}" }
      for _, s in ipairs(good) do assert.equal('"' .. s .. '"', encoded(s)) end
      local bad = {
        "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
        "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2\x82(", "a\xe2\x28\xa1",
      }
      for _, s in ipairs(bad) do
        assert.equal("encode: $.x[2]: a string is not valid UTF-8", refused_encode { x = { "ok", s } })
        assert.truthy(refused_encode({ [s] = 1 }):find("a key is not valid UTF-8", 1, true))
      end
    end)

    it("takes sequences and marked tables for arrays, all else for objects", function()
      assert.equal("[1,2,3]", encoded { 1, 2, 3 })
      assert.equal("{}", encoded {})
      assert.equal("[]", encoded(json.array()))
      assert.equal("[]", encoded(json.array {}))
      assert.equal("[[],{},[{}]]", encoded { json.array {}, {}, { {} } })
      assert.equal("[null,null]", encoded { json.null, json.null })
      assert.equal("null", encoded(json.null))
      assert.equal("[true,false]", encoded { true, false })
    end)

    it("refuses what JSON cannot say, with the path", function()
      local sparse = { 1, 2, 3 }
      sparse[5] = 5
      local cases = {
        { { a = { b = { 1, 0 / 0 } } }, "encode: $.a.b[2]: NaN" },
        { math.huge, "encode: $: NaN and infinity" },
        { { -math.huge }, "encode: $[1]: " },
        { { f = print }, "encode: $.f: a function has" },
        { { f = io.stdout }, "encode: $.f: a userdata has" },
        { { f = coroutine.create(print) }, "encode: $.f: a thread has" },
        { { s = sparse }, "encode: $.s: the array has holes" },
        { { [2] = 1 }, "encode: $: the array has holes" },
        { { m = { 1, a = 2 } }, "encode: $.m: string and number keys are mixed" },
        { { m = { [0] = 1 } }, "encode: $.m: a key is a number" },
        { { m = { [-1] = 1 } }, "encode: $.m: a key is a number" },
        { { m = { [1.5] = 1 } }, "encode: $.m: a key is a number" },
        { { m = { [true] = 1 } }, "encode: $.m: a key is a boolean" },
        { { m = { [{}] = 1 } }, "encode: $.m: a key is a table" },
        { { m = json.array { a = 1 } }, "encode: $.m: an array has string keys" },
        { { m = json.array { [3] = 1 } }, "encode: $.m: the array has holes" },
        { { ["a\0b"] = 1 }, 'encode: $["a?b"]: a NUL in an object key' },
        { { ["x y\27\""] = { print } }, 'encode: $["x y??"][1]: a function' },
        { { [("k"):rep(4000)] = print }, "encode: $." .. ("k"):rep(40) .. ": a function" },
      }
      for _, case in ipairs(cases) do
        local message = refused_encode(case[1])
        assert.equal(case[2], message:sub(1, #case[2]))
      end
    end)

    it("refuses cycles, allows the same table twice", function()
      local loop = { a = {} }
      loop.a.b = { loop }
      assert.equal("encode: $.a.b[1]: the table contains itself", refused_encode(loop))
      local shared = { 1 }
      assert.equal('{"a":[1],"b":[1]}', encoded { a = shared, b = shared })
    end)

    it("stops at 200 levels", function()
      local function nested(n)
        local value = json.array()
        for _ = 2, n do value = { value } end
        return value
      end
      assert.equal(("["):rep(200) .. ("]"):rep(200), encoded(nested(200)))
      local message = refused_encode(nested(201))
      assert.truthy(message:find("more than 200 levels deep$"), message)
    end)

    it("uses no metamethods", function()
      local trap = setmetatable({ a = 1 }, {
        __index = function() error "no" end, __pairs = function() error "no" end, __len = function() error "no" end,
      })
      assert.equal('{"a":1}', encoded(trap))
    end)

    it("indents on demand", function()
      local value = { a = { 1, {} }, b = json.array() }
      assert.equal('{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}', encoded(value, { indent = 2 }))
    end)

    it("encodes large values", function()
      local big = ("x"):rep(3000000)
      assert.equal('"' .. big .. '"', encoded(big))
      local escaped = ("\n"):rep(100000)
      assert.equal('"' .. ("\\n"):rep(100000) .. '"', encoded(escaped))
      local wide = {}
      for i = 1, 5000 do wide[("key%05d"):format(i)] = { ("k"):rep(i % 50 + 1), n = nil } end
      assert.same(wide, json.decode(encoded(wide)))
      local row, level = {}, {}
      for i = 1, 100 do row["c" .. i] = i end
      for i = 1, 100 do level["r" .. i] = row end
      assert.same({ x = level, y = row }, json.decode(encoded { x = level, y = row }))
    end)

    it("raises for wrong arguments", function()
      assert.error_matches(function() json.encode() end, "value expected")
      assert.error_matches(function() json.encode(1, { pretty = true }) end, "unknown option 'pretty'")
      assert.error_matches(function() json.encode(1, { indent = 17 }) end, "0 to 16")
      assert.error_matches(function() json.encode(1, { indent = -1 }) end, "0 to 16")
      assert.error_matches(function() json.encode(1, { indent = 1.5 }) end, "must be an integer")
    end)

    it("refuses nil with a message", function()
      assert.equal("encode: $: a nil has no JSON form", refused_encode(nil))
    end)
  end)

  describe("array", function()
    it("marks in place, once or twice", function()
      local t = { 1 }
      assert.equal(t, json.array(t))
      assert.equal(t, json.array(t))
      assert.is_true(json.is_array(t))
      assert.is_false(json.is_array { 1 })
      assert.is_false(json.is_array("x"))
      assert.is_false(json.is_array(nil))
    end)

    it("raises for what is no table or has another metatable", function()
      assert.error_matches(function() json.array(1) end, "table expected")
      assert.error_matches(function() json.array(setmetatable({}, {})) end, "another metatable")
      assert.error_matches(function() json.is_array() end, "value expected")
    end)
  end)

  it("survives a hard-working collector", function()
    collectgarbage("generational")
    local value = { list = { 1, 2.5, "x", json.null, json.array() }, text = ("y"):rep(5000) }
    for _ = 1, 200 do value = json.decode(encoded(value)) end
    collectgarbage("incremental", 0, 1000)
    for _ = 1, 200 do value = json.decode(encoded(value)) end
    collectgarbage("incremental", 200, 100)
    assert.equal(5000, #value.text)
  end)

  it("bears a finaliser that empties the table being encoded", function()
    local emptied = 0
    collectgarbage("incremental", 1, 400)
    for _ = 1, 5 do
      local t = {}
      for i = 1, 2000 do t[("k%d"):format(i) .. ("x"):rep(600)] = i end
      collectgarbage()
      setmetatable({}, { __gc = function()
        emptied = emptied + 1
        for key in pairs(t) do t[key] = nil end
      end })
      local text, message = json.encode(t)
      assert(text or message:find("a nil has no JSON form", 1, true), message)
    end
    collectgarbage("incremental", 200, 100)
    collectgarbage()
    assert.equal(5, emptied)
  end)

  it("leaves nothing behind when memory runs out at any point", function()
    local oom = require "oom"
    local value
    local steps = oom.run(function() value = json.decode('{"a":[1,2.5,"text",null,{}],"b":"\\u00e9"}') end)
    assert.is_true(steps > 5)
    assert.equal("text", value.a[3])
    local text
    local wide = { t = ("x"):rep(5000) }
    for i = 1, 100 do wide["k" .. i] = { i } end
    assert.is_true(oom.run(function() text = json.encode(wide) end) > 1)
    assert.same(wide, json.decode(text))
    assert.is_true(oom.run(function() json.decode("[") end) > 1)
    assert.is_true(oom.run(function() json.encode({ { print } }) end) > 1)
  end)
end)
