-- atelier.httpd: what a server makes of requests, and which it refuses.
local json = require "atelier.json"
local site = require "spec.support.httpd_site"

local connect, ask, get = site.connect, site.ask, site.get

describe("a server", function()
  site.stand(setup, teardown, after_each)

  it("answers, one request after the other on a connection", function()
    local c = connect()
    for i = 1, 5 do
      local r = c:ask(("GET /n%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i))
      assert.equal(200, r.status)
      assert.equal("path /n" .. i, r.body)
      assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", r.headers.date)
      assert.is_nil(r.headers.connection)
    end
  end)

  it("answers pipelined requests in their order", function()
    local c, text = connect(), {}
    for i = 1, 50 do
      text[i] = ("GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"):format(i % 7 == 0 and "sleep?s=0.01&" .. i or "n" .. i)
    end
    c:send(table.concat(text))
    for i = 1, 50 do
      assert.equal(i % 7 == 0 and "slept" or "path /n" .. i, c:response().body)
    end
  end)

  it("ends a connection after its number of requests", function()
    local c = connect()
    for i = 1, 100 do
      local r = c:ask("GET /n HTTP/1.1\r\nHost: a\r\n\r\n")
      assert.equal(i == 100 and "close" or nil, r.headers.connection)
    end
    assert.is_true(c:is_closed())
  end)

  it("speaks HTTP/1.0", function()
    local c = connect()
    local r = c:ask("GET /describe HTTP/1.0\r\n\r\n")
    assert.equal(200, r.status)
    assert.equal("1.0", r.headers["x-version"])
    assert.is_true(c:is_closed())
    c = connect()
    r = c:ask("GET /stream?n=3 HTTP/1.0\r\n\r\n")
    assert.is_nil(r.headers["transfer-encoding"])
    assert.equal("1\n2\n3\n", r.body)
  end)

  it("gives path, query, headers and peer", function()
    local r = get("/describe?b=%E3%81%82+c&a=1&b=2&flag&=x&a=3&e=a%3Db%26c")
    assert.equal("=x|a=1|b=あ c|e=a=b&c|flag=", r.headers["x-query"])
    assert.equal("a|b", r.headers["x-repeated"])
    assert.equal("127.0.0.1", r.headers["x-peer"])
    r = ask("GET /describe HTTP/1.1\r\nHost: a\r\nx-A: 1\r\nX-a:2\r\n\r\n")
    assert.equal("1, 2", r.headers["x-a"])
    r = ask("GET /describe HTTP/1.1\r\nHost: a \t\r\nx-A: \t1 2 \t \r\n\r\n")
    assert.same({ 200, "1 2" }, { r.status, r.headers["x-a"] })
    assert.equal("path /あ b/+", get("/%E3%81%82%20b/+").body)
    assert.equal("path /%41", get("/%2541").body) -- once, not twice
  end)

  it("reads bodies, whole or chunked", function()
    assert.equal("hello", ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").body)
    assert.equal("hello!", ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\n\r\n").body)
    assert.equal("", ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").body)
    local big = ("\0x"):rep(2500)
    assert.equal(big, ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" .. big).body)
  end)

  it("says 100 Continue when it will take the body", function()
    local c = connect()
    c:send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert.equal(100, c:response().status)
    assert.equal("hello", c:ask("hello").body)
    c = connect()
    local r = c:ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5001\r\nExpect: 100-continue\r\n\r\n")
    assert.equal(413, r.status)
    assert.is_true(c:is_closed())
    assert.equal(417, ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: miracles\r\n\r\n").status)
  end)

  it("asks accept before it reads a body", function()
    local function post(path, length)
      return ask(("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"):format(path, length, ("x"):rep(length)))
    end
    assert.equal(200, post("/large", 100000).status)
    assert.equal(413, post("/large", 100001).status)
    assert.equal(413, post("/none", 1).status)
    local r = post("/no", 3000000)
    assert.same({ 401, "no", "not you", "close" }, { r.status, r.headers["x-why"], r.body, r.headers.connection })
    for _, path in ipairs { "error", "odd", "waits", "loops" } do
      assert.equal(500, post("/accept-" .. path, 1).status)
    end
    site.server:logs("in accept")
    site.server:logs("returned a string, not")
    site.server:logs("must be called in a coroutine of the loop")
    site.server:logs("script ran for more than 1000 ms")
  end)

  describe("refuses", function()
    -- What follows must not be taken for a request: nothing but the refusal comes back, and the connection ends.
    local function refused(status, text)
      local c = connect()
      c:send(text .. "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
      local all = ""
      while c:fill() do
        all, c.buffer = all .. c.buffer, ""
      end
      assert.is_true(c.is_ended, "still open: " .. text)
      assert.equal(tostring(status), all:match("^HTTP/1%.1 (%d+) "), text .. "\n" .. all)
      assert.is_nil(all:find("smuggled", 1, true), text)
      assert.same({ 1, 1 }, { select(2, all:gsub("HTTP/1%.1 %d", "")), select(2, all:gsub("\r\n\r\n", "")) }, all)
      assert.truthy(all:find("\r\nContent-Type: application/json\r\n", 1, true), all)
      local told = json.decode(all:match "\r\n\r\n(.*)")
      assert.same({ "string", json.null, json.null, "string" },
        { type(told.code), told.details, told.hint, type(told.message) })
    end

    for name, head in pairs {
      ["no Host"] = "GET / HTTP/1.1\r\n",
      ["two Hosts"] = "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
      ["a Host that is none"] = "GET / HTTP/1.1\r\nHost: a/b\r\n",
      ["two lengths"] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
      ["two equal lengths"] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
      ["length and coding"] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
      ["coding and length"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
      ["another coding"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
      ["two codings"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n",
      ["two coding lines"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      ["identity"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n",
      ["coding in 1.0"] = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
      ["space before the colon"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n",
      ["tab before the colon"] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n",
      ["a vertical tab before the coding"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\vchunked\r\n",
      ["a folded header"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n",
      ["a fold at the start"] = "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n",
      ["NUL in a value"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n",
      ["NUL at the end of a value"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0\r\n",
      ["NUL in a name"] = "GET / HTTP/1.1\r\nHost: a\r\nX-\0A: b\r\n",
      ["NUL in the last value"] = "GET / HTTP/1.1\r\nX-A: b\r\nHost: a\0b\r\n",
      ["NUL in the coding"] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0, identity\r\n",
      ["a bare CR in a value"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-C: d\r\n",
      ["a bare CR at the end"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\r\n",
      ["bare LF"] = "GET / HTTP/1.1\nHost: a\n",
      ["one bare LF"] = "GET / HTTP/1.1\r\nX-A: b\nHost: a\r\n",
      ["a control character"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\1c\r\n",
      ["a name that is no token"] = "GET / HTTP/1.1\r\nHost: a\r\nX(A): b\r\n",
      ["an empty name"] = "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n",
      ["no colon"] = "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n",
      ["two Authorizations"] = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nauthorization: Bearer y\r\n",
      ["two Content-Types"] = "GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n",
      ["a space in the path"] = "GET /a b HTTP/1.1\r\nHost: a\r\n",
      ["two spaces"] = "GET  / HTTP/1.1\r\nHost: a\r\n",
      ["two spaces later"] = "GET /  HTTP/1.1\r\nHost: a\r\n",
      ["a tab for a space"] = "GET /\tHTTP/1.1\r\nHost: a\r\n",
      ["NUL in the path"] = "GET /a\0b HTTP/1.1\r\nHost: a\r\n",
      ["NUL in the query"] = "GET /a?b\0c HTTP/1.1\r\nHost: a\r\n",
      ["an encoded NUL"] = "GET /a%00b HTTP/1.1\r\nHost: a\r\n",
      ["an encoded NUL in the query"] = "GET /?a=%00 HTTP/1.1\r\nHost: a\r\n",
      ["a raw byte"] = "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n",
      ["no UTF-8"] = "GET /%c3%28 HTTP/1.1\r\nHost: a\r\n",
      ["an overlong slash"] = "GET /%c0%af HTTP/1.1\r\nHost: a\r\n",
      ["a surrogate"] = "GET /%ed%a0%80 HTTP/1.1\r\nHost: a\r\n",
      ["no UTF-8 in the query"] = "GET /?a=%ff HTTP/1.1\r\nHost: a\r\n",
      ["half an escape"] = "GET /%4 HTTP/1.1\r\nHost: a\r\n",
      ["an escape that is none"] = "GET /%zz HTTP/1.1\r\nHost: a\r\n",
      ["a lone percent in the query"] = "GET /?a=% HTTP/1.1\r\nHost: a\r\n",
      ["dots"] = "GET /a/../b HTTP/1.1\r\nHost: a\r\n",
      ["dots at the end"] = "GET /a/.. HTTP/1.1\r\nHost: a\r\n",
      ["encoded dots"] = "GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n",
      ["one dot"] = "GET /./a HTTP/1.1\r\nHost: a\r\n",
      ["an encoded slash"] = "GET /a%2fb HTTP/1.1\r\nHost: a\r\n",
      ["a backslash"] = "GET /a%5cb HTTP/1.1\r\nHost: a\r\n",
      ["a line end in the path"] = "GET /a%0d%0ab HTTP/1.1\r\nHost: a\r\n",
      ["a fragment"] = "GET /a#b HTTP/1.1\r\nHost: a\r\n",
      ["no path"] = "GET a HTTP/1.1\r\nHost: a\r\n",
      ["another scheme"] = "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n",
      ["no host in the target"] = "GET http:///a HTTP/1.1\r\nHost: a\r\n",
      ["a user in the target"] = "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n",
      ["dots behind a host"] = "GET http://b/../a HTTP/1.1\r\nHost: a\r\n",
      ["an authority"] = "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n",
      ["a star"] = "GET * HTTP/1.1\r\nHost: a\r\n",
      ["a method that is none"] = "G(T / HTTP/1.1\r\nHost: a\r\n",
      ["a long method"] = ("G"):rep(40) .. " / HTTP/1.1\r\nHost: a\r\n",
    } do
      it(name, function()
        refused(400, head .. "\r\n")
      end)
    end

    it("other versions", function()
      refused(505, "GET / HTTP/9.9\r\nHost: a\r\n\r\n")
      refused(505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n")
    end)

    -- libmicrohttpd answers these by itself.
    for name, value in pairs {
      ["a negative length"] = "-5", ["a signed length"] = "+5", ["a length with more"] = "5abc", ["a hexadecimal length"] = "0x5",
      ["a list of lengths"] = "5, 5", ["an empty length"] = "",
    } do
      it(name, function()
        refused(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " .. value .. "\r\n\r\n")
      end)
    end

    it("a length beyond all numbers", function()
      refused(413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n")
    end)

    it("a chunk size that is none", function()
      for _, size in ipairs { "zz", "-1", "ffffffffffffffffff", "0x5", " 5" } do
        local c = connect()
        local r = c:ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" .. size .. "\r\nhello\r\n0\r\n\r\n")
        assert(r == nil or r.status == 400 or r.status == 413, size)
        assert.is_true(c:is_closed())
      end
    end)

    it("large targets and headers", function()
      refused(414, "GET /" .. ("a"):rep(8200) .. " HTTP/1.1\r\nHost: a\r\n\r\n")
      refused(431, "GET / HTTP/1.1\r\nHost: a\r\nX: " .. ("a"):rep(17000) .. "\r\n\r\n")
      refused(431, "GET / HTTP/1.1\r\nHost: a\r\n" .. ("X: a\r\n"):rep(150) .. "\r\n")
    end)

    it("headers without an end", function()
      local c = connect()
      c:send("GET / HTTP/1.1\r\nHost: a\r\n")
      local sent = 0
      while sent < 1000000 and c:send(("X-Header: aaaaaaaa\r\n"):rep(50)) do sent = sent + 1000 end
      assert.is_true(sent < 1000000 or c:is_closed())
      c = connect()
      c:send("GET /" .. ("a"):rep(60000))
      assert.is_true(c:is_closed())
    end)

    it("bodies beyond the limit, told before or not", function()
      local r = ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5001\r\n\r\n")
      assert.equal(413, r.status)
      assert.matches('{"code":"too_large"', r.body, 1, true)
      local c = connect()
      c:send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
      for _ = 1, 200 do
        if not c:send("1000\r\n" .. ("x"):rep(4096) .. "\r\n") then break end
      end
      assert.equal(413, c:response().status)
      assert.is_true(c:is_closed())
    end)

    it("what is no HTTP", function()
      for _, text in ipairs { "\22\3\1\2\0\1\0\1\252\3\3", "\0\0\0\0\r\n\r\n", "hello\r\n\r\n", "\r\n\r\n\r\n", ("x"):rep(100000) } do
        local c = connect(nil, site.impatient) -- which waits for no end of a line
        c:send(text)
        assert.is_true(c:is_closed(), ("%q"):format(text:sub(1, 20)))
      end
    end)
  end)

  it("knows OPTIONS *", function()
    assert.equal("path *", ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").body)
  end)

  it("hands unknown methods to the handler", function()
    assert.equal("BREW", ask("BREW /describe HTTP/1.1\r\nHost: a\r\n\r\n").headers["x-method"])
  end)
end)
