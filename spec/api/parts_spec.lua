local json = require "atelier.json"
local addresses = require "addresses"
local problem = require "api.problem"
local rate = require "api.rate"
local router = require "api.router"
local schema = require "api.schema"

describe("api.router", function()
  local function route(method, path) return { method = method, path = path } end
  local list, one, post, other = route("GET", "/things"), route("GET", "/things/{id}"), route("POST", "/things"),
    route("DELETE", "/a.b/{x}/c/{y}")
  local it_finds = router.new { list, one, post, other }

  it("finds fixed paths and those with parameters", function()
    local place, values = it_finds:find "/things"
    assert.equal(list, place.methods.GET)
    assert.equal(post, place.methods.POST)
    assert.equal(list, place.methods.HEAD)
    assert.equal("GET, HEAD, OPTIONS, POST", place.allow)
    assert.is_nil(values)
    place, values = it_finds:find "/things/a%2"
    assert.equal(one, place.methods.GET)
    assert.same({ id = "a%2" }, values)
    place, values = it_finds:find "/a.b/1/c/2"
    assert.equal(other, place.methods.DELETE)
    assert.is_nil(place.methods.HEAD)
    assert.same({ x = "1", y = "2" }, values)
  end)

  it("finds nothing else", function()
    for _, path in ipairs { "", "/", "/things/", "/things/1/2", "/Things", "things", "/axb/1/c/2", "/a.b//c/2", "/a.b/1/c/",
      "*", "/things/1/" } do
      assert.is_nil(it_finds:find(path), path)
    end
  end)

  it("refuses a route that is there twice", function()
    assert.error_matches(function() router.new { list, route("GET", "/things") } end, "is there twice")
  end)
end)

describe("api.rate", function()
  it("lets a burst through, and then so many a second, for each user", function()
    local limiter = rate.new(10, 5)
    for _ = 1, 5 do assert.is_nil(limiter:take("a", 100)) end
    assert.equal(1, limiter:take("a", 100))
    assert.is_nil(limiter:take("b", 100))
    assert.is_nil(limiter:take("a", 100.15))
    assert.equal(1, limiter:take("a", 100.15))
    for _ = 1, 5 do assert.is_nil(limiter:take("a", 1000)) end
    assert.equal(1, limiter:take("a", 1000))
  end)

  it("tells when to come again", function()
    local limiter = rate.new(0.1, 1)
    assert.is_nil(limiter:take("a", 0))
    assert.equal(10, limiter:take("a", 0))
    assert.equal(5, limiter:take("a", 5))
    assert.is_nil(limiter:take("a", 10))
  end)

  it("survives a clock that goes back", function()
    local limiter = rate.new(10, 5)
    assert.is_nil(limiter:take("a", 100))
    for _ = 1, 10 do limiter:take("a", 50) end
    assert.is_nil(limiter:take("a", 60))
  end)

  it("remembers a bounded number of users", function()
    local limiter = rate.new(1, 2)
    for i = 1, 250000 do limiter:take("user " .. i, 1) end
    local count = 0
    for _, set in ipairs { limiter.left, limiter.former_left } do
      for _ in pairs(set) do count = count + 1 end
    end
    assert.is_true(count <= 200000)
  end)
end)

describe("addresses", function()
  it("reads addresses as they are written", function()
    local same = { ["::"] = ("\0"):rep(16), ["::1"] = ("\0"):rep(15) .. "\1", ["1::"] = "\0\1" .. ("\0"):rep(14),
      ["2001:db8::ff00:42:8329"] = "\x20\x01\x0d\xb8\0\0\0\0\0\0\xff\0\0\x42\x83\x29", ["10.0.0.1"] = "\10\0\0\1",
      ["::ffff:10.0.0.1"] = "\10\0\0\1", ["fe80::1%eth0"] = "\xfe\x80" .. ("\0"):rep(13) .. "\1",
      ["1:2:3:4:5:6:7:8"] = "\0\1\0\2\0\3\0\4\0\5\0\6\0\7\0\8", ["64:ff9b::192.0.2.33"] = "\0\x64\xff\x9b" .. ("\0"):rep(8) .. "\xc0\0\2\x21" }
    for text, bytes in pairs(same) do assert.equal(bytes, addresses.parse(text), text) end
    for _, text in ipairs { "", ":", ":::", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "1.2.3.1000", "a.b.c.d", "1.2.3.4 ", "12345::",
      "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::1::", "1:2:3:4:5:6:7::8:9", "g::", "1.2.3.4::", "::1.2.3", "-1.0.0.0" } do
      assert.is_nil(addresses.parse(text), text)
    end
  end)

  it("knows what is in a network", function()
    local networks = assert(addresses.networks { "10.0.0.0/8", "192.168.1.7", "2001:db8::/33", "172.16.0.0/12" })
    for _, text in ipairs { "10.255.0.1", "192.168.1.7", "::ffff:10.1.2.3", "2001:db8:7fff::1", "172.31.255.255" } do
      assert.is_true(networks:has(text), text)
    end
    for _, text in ipairs { "11.0.0.0", "192.168.1.8", "2001:db8:8000::1", "172.32.0.0", "x", "::10.0.0.1" } do
      assert.is_false(networks:has(text), text)
    end
    for _, text in ipairs { "10.0.0.0/33", "x", "::/129", "10.0.0.0/", "10.0.0.0/-1", "example.org" } do
      local got, message, code = addresses.networks { text }
      assert.is_nil(got)
      assert.matches("is neither an address nor a network", message)
      assert.equal("config", code)
    end
  end)

  it("believes X-Forwarded-For as far as those who wrote it are trusted", function()
    local trusted, none = assert(addresses.networks { "127.0.0.1", "10.0.0.0/8" }), assert(addresses.networks {})
    local cases = {
      { "127.0.0.1", nil, "127.0.0.1" }, { "127.0.0.1", "203.0.113.5", "203.0.113.5" },
      { "198.51.100.1", "203.0.113.5", "198.51.100.1" }, { "127.0.0.1", "1.1.1.1, 203.0.113.5, 10.0.0.2", "203.0.113.5" },
      { "127.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9" }, { "127.0.0.1", "made up, 10.0.0.2", "10.0.0.2" },
      { "127.0.0.1", "", "127.0.0.1" }, { "127.0.0.1", ",,,", "127.0.0.1" }, { "127.0.0.1", "2001:db8::5", "2001:db8:0:0:0:0:0:5" },
      { "127.0.0.1", "[2001:db8::5]", "2001:db8:0:0:0:0:0:5" }, { "::ffff:127.0.0.1", "203.0.113.5", "203.0.113.5" },
      { "127.0.0.1", "203.0.113.5'; drop table", "127.0.0.1" }, { "127.0.0.1", "9.9.9.9:1234", "9.9.9.9" },
      { "127.0.0.1", "[2001:db8::5]:80", "2001:db8:0:0:0:0:0:5" }, { "127.0.0.1", "9.9.9.9:", "127.0.0.1" },
      { "127.0.0.1", "1.1.1.1:1, 9.9.9.9:x", "127.0.0.1" }, { "127.0.0.1", "[::1", "127.0.0.1" },
      { "127.0.0.1", "203.0.113.5:1, 10.0.0.2:2", "203.0.113.5" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[3], addresses.client(case[1], case[2], trusted))
    end
    assert.equal("127.0.0.1", addresses.client("127.0.0.1", "203.0.113.5", none))
    local blanks = (" "):rep(200000) -- which must not take time by their square
    assert.equal("203.0.113.5", addresses.client("127.0.0.1", "x" .. blanks .. "x," .. blanks .. "203.0.113.5" .. blanks, trusted))
    assert.equal("127.0.0.1", addresses.client("127.0.0.1", blanks, trusted))
  end)
end)

describe("api.problem", function()
  it("has all four keys, always", function()
    assert.equal('{"code":"a","details":null,"hint":null,"message":"b"}', problem.new(400, "a", "b"):body())
  end)

  it("makes an answer of every database error, and shows nothing of the inside", function()
    local cases = { AT001 = 404, AT002 = 403, AT003 = 404, AT004 = 400, AT005 = 409, AT006 = 404, AT007 = 409, AT008 = 400,
      AT009 = 409, ["42501"] = 403, ["08006"] = 503, ["53300"] = 503, ["57P01"] = 503, ["57014"] = 504, timeout = 504,
      connection = 503, closed = 503, busy = 503, ["25006"] = 503, ["40001"] = 503, ["40P01"] = 503, ["55P03"] = 503,
      ["22P02"] = 400, ["23505"] = 409, ["23503"] = 409, ["42P01"] = 500, XX000 = 500, P0001 = 500, [""] = 500 }
    for code, status in pairs(cases) do
      local it = problem.of_sql("pipeline: some_function: inner secret", code)
      assert.equal(status, it.status, code)
      assert.is_true(problem.is(it))
      if not code:find "^AT" then assert.is_nil(it:body():find("secret", 1, true)) end
      if status == 503 or status == 504 then assert.equal("1", it.headers["Retry-After"]) end
    end
    assert.equal(500, problem.of_sql("x", nil).status)
    assert.is_false(problem.is {})
    assert.is_false(problem.is "text")
  end)
end)

describe("api.schema", function()
  it("reads parameters as their types", function()
    local integer = { type = "integer", min = -5, max = 10 }
    assert.equal(-5, schema.read(integer, "-5"))
    assert.equal(7, schema.read(integer, "007"))
    for _, text in ipairs { "", "1.0", "0x1", "1e0", " 1", "+1", "11", "-6", "9999999999999999999999" } do
      assert.is_nil((schema.read(integer, text)))
    end
    assert.equal(1.5, schema.read({ type = "number" }, "1.5"))
    assert.is_nil((schema.read({ type = "number" }, "nan")))
    assert.is_true(schema.read({ type = "boolean" }, "true"))
    assert.is_nil((schema.read({ type = "boolean" }, "yes")))
    assert.equal("b", schema.read({ type = "string", enum = { "a", "b" } }, "b"))
    assert.same({ [2] = "must be one of a, b" }, { schema.read({ type = "string", enum = { "a", "b" } }, "c") })
    assert.same({ [2] = "must be a UUID" }, { schema.read(schema.uuid(), "3f0c2b6e-7c1d-4e0a-9a59-0f6f3a1f2b1g") })
    assert.is_nil((schema.read({ type = "string" }, "a\127b")))
  end)

  it("checks objects, and names the field", function()
    local fields = { a = { type = "integer", required = true }, b = { type = "string", default = "x" } }
    assert.same({ a = 1, b = "x" }, schema.object(fields, { a = 1, b = json.null }))
    assert.same({ [2] = "a", [3] = "is missing" }, { schema.object(fields, {}) })
    assert.same({ [2] = "c", [3] = "is unknown" }, { schema.object(fields, { a = 1, c = 1 }) })
  end)
end)
