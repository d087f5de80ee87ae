local child = require "spec.support.httpd_child"
local httpd = require "atelier.httpd"
local tcp = require "spec.support.tcp"
local unistd = require "posix.unistd"

local function raises(text, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(text, message, 1, true)
end

-- Runs f as a coroutine of a loop in this process.
local function inside(f, run, limits)
  limits = limits or { slice_ms = 30000 }
  local server = assert(httpd.listen { limits = limits })
  local failure
  run = run or {}
  run.handler = run.handler or function(request) request:respond { body = "ok" } end
  run.on_start = function()
    local ok, message = xpcall(f, debug.traceback, server)
    if not ok then failure = message end
    server:stop()
  end
  assert(server:run(run))
  assert(not failure, failure)
end

describe("atelier.httpd", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, httpd.live_handles())
  end)

  describe("listen", function()
    it("opens a port of its own choice, or adopts a socket", function()
      local server = assert(httpd.listen {})
      assert.is_true(server:port() > 0)
      assert.equal("atelier.httpd.server: listening, port " .. server:port(), tostring(server))
      local other = assert(httpd.listen { fd = server:fd() })
      assert.equal(server:port(), other:port())
      assert.not_equal(server:fd(), other:fd())
      server:close()
      other:close()
      other:close()
      local v6 = httpd.listen { host = "::1" }
      if v6 then v6:close() end
    end)

    it("fails for what cannot be listened on", function()
      local server <close> = assert(httpd.listen {})
      local _, message, code = httpd.listen { port = server:port() }
      assert.equal("EADDRINUSE", code)
      assert.matches("^listen: 127%.0%.0%.1: ", message)
      assert.equal("address", select(3, httpd.listen { host = "no address" }))
      assert.equal("EBADF", select(3, httpd.listen { fd = 100000 }))
      assert.equal("EBADF", select(3, httpd.listen { fd = -1 }))
      assert.equal("ENOTSOCK", select(3, httpd.listen { fd = 2 }))
    end)

    it("raises for wrong arguments", function()
      raises("table expected", httpd.listen)
      raises("unknown option 'prot'", httpd.listen, { prot = 1 })
      raises("unknown option 'bytes'", httpd.listen, { limits = { bytes = 1 } })
      raises("'port' must be 0 to 65535", httpd.listen, { port = 65536 })
      raises("'port' must be an integer", httpd.listen, { port = "80" })
      raises("'backlog'", httpd.listen, { backlog = 0 })
      raises("limit 'header_bytes'", httpd.listen, { limits = { header_bytes = 1 } })
      raises("limit 'idle_seconds'", httpd.listen, { limits = { idle_seconds = 0 / 0 } })
    end)

    it("raises on a closed server, and for a wrong run", function()
      local server = assert(httpd.listen {})
      raises("'handler' is missing", server.run, server, {})
      raises("unknown option 'handle'", server.run, server, { handle = print })
      raises("must be a function", server.run, server, { handler = print, on_tick = 1 })
      raises("no such signal", server.run, server, { handler = print, signals = { "KILL" } })
      raises("'on_signal' is missing", server.run, server, { handler = print, signals = { "TERM" } })
      raises("does not run", server.drain, server)
      raises("does not run", server.stop, server)
      server:close()
      for _, name in ipairs { "run", "drain", "stop", "port", "fd", "stats" } do
        raises("server is closed", server[name], server, {})
      end
      assert.equal("atelier.httpd.server: closed, port 0", (tostring(server):gsub("port %d+", "port 0")))
      for _, f in ipairs { httpd.sleep, httpd.park, httpd.spawn } do
        assert.is_false(pcall(f, f == httpd.spawn and print or 0))
      end
      assert.is_nil(httpd.current())
    end)
  end)

  describe("a server", function()
    -- The patient one ends nothing for being late; the other one is for the specs of what its limits do.
    local server, impatient

    local function handler(request, _, log)
      if request.path == "/describe" then
        local keys = {}
        for name, value in pairs(request.query) do keys[#keys + 1] = name .. "=" .. value end
        table.sort(keys)
        local repeated = {}
        for name in pairs(request.repeated or {}) do repeated[#repeated + 1] = name end
        table.sort(repeated)
        request:respond { headers = { ["X-Query"] = table.concat(keys, "|"), ["X-Repeated"] = table.concat(repeated, "|"),
          ["X-A"] = request.headers["x-a"] or "-", ["X-Peer"] = request.peer, ["X-Version"] = request.version,
          ["X-Method"] = request.method } }
      elseif request.path == "/echo" then
        request:respond { body = request.body or "", headers = { ["Content-Type"] = "text/plain" } }
      elseif request.path == "/sleep" then
        httpd.sleep(tonumber(request.query.s))
        request:respond { body = "slept" }
      elseif request.path == "/file" then
        local q = request.query
        local ok, _, code = request:respond { status = q.offset and 206 or 200,
          file = { path = q.path, offset = math.tointeger(q.offset), length = math.tointeger(q.length) } }
        if not ok then request:respond { status = 404, body = code } end
      elseif request.path == "/stream" then
        request:respond { stream = true, headers = { ["Content-Type"] = "text/event-stream" } }
        for i = 1, tonumber(request.query.n) do
          local ok, _, code = request:write(("%d\n"):format(i):rep(tonumber(request.query.times) or 1))
          if not ok then
            log:write("stream ended: ", code, "\n")
            return
          end
        end
        if request.query.fail then error("in the middle") end
        if request.query.hold then
          local _ <close> = setmetatable({}, { __close = function() log:write("held one closed\n") end })
          httpd.park()
        end
      elseif request.path == "/hold" then
        log:write("held one begins\n")
        local _ <close> = setmetatable({}, { __close = function() log:write("held one closed\n") end })
        httpd.sleep(100)
      elseif request.path == "/error" then
        error("secret reason")
      elseif request.path == "/object" then
        error({ code = "x" })
      elseif request.path == "/silent" then
        return
      elseif request.path == "/yield" then
        coroutine.yield("what for?")
      elseif request.path == "/loop" then
        while true do end
      elseif request.path == "/collect" then
        collectgarbage()
        collectgarbage()
        request:respond { body = "" }
      else
        request:respond { body = "path " .. request.path }
      end
    end

    setup(function()
      server = child.start {
        limits = { header_seconds = 600, body_seconds = 600, handler_seconds = 600, response_seconds = 600,
          stall_seconds = 600, idle_seconds = 600, half_close_seconds = 600, slice_ms = 1000, connections = 1200,
          requests = 100, body_bytes = 5000 },
        run = { handler = handler, accept = function(request)
          if request.path == "/large" then return 100000 end
          if request.path == "/none" then return 0 end
          if request.path == "/no" then return { status = 401, headers = { ["X-Why"] = "no" }, body = "not you" } end
          if request.path == "/accept-error" then error("in accept") end
          if request.path == "/accept-odd" then return "yes" end
          if request.path == "/accept-waits" then httpd.sleep(1) end
          if request.path == "/accept-loops" then while true do pcall(error) end end
        end },
      }
      impatient = child.start {
        limits = { header_seconds = 2, body_seconds = 2, handler_seconds = 3, response_seconds = 2, stall_seconds = 2,
          idle_seconds = 3, half_close_seconds = 600 },
        run = { handler = handler },
      }
    end)

    teardown(function()
      server:stop()
      impatient:stop()
    end)

    local clients = {}
    local function connect(window, to)
      local c = tcp.connect((to or server).port, window)
      clients[#clients + 1] = c
      return c
    end

    after_each(function()
      for i = #clients, 1, -1 do
        clients[i]:close()
        clients[i] = nil
      end
    end)

    local function ask(text, head)
      return assert(connect():ask(text, head))
    end

    local function get(target)
      return ask("GET " .. target .. " HTTP/1.1\r\nHost: a\r\n\r\n")
    end

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
      server:logs("in accept")
      server:logs("returned a string, not")
      server:logs("must be called in a coroutine of the loop")
      server:logs("script ran for more than 1000 ms")
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
        ["another form"] = "GET http://b/ HTTP/1.1\r\nHost: a\r\n",
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
          local c = connect(nil, impatient) -- which waits for no end of a line
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

    describe("deadlines", function()
      it("end a connection that says nothing, or drips", function()
        local silent, drip = connect(nil, impatient), connect(nil, impatient)
        for _ = 1, 600 do
          if drip.is_ended then break end
          drip:send("G")
          drip:fill(0.1)
        end
        assert.is_true(drip.is_ended)
        assert.is_true(silent:is_closed())
      end)

      it("end a slow body with 408", function()
        local c = connect(nil, impatient)
        c:send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n")
        for _ = 1, 600 do -- each byte is in time, all of them are not
          if c.is_ended then break end
          c:send("x")
          c:fill(0.1)
        end
        assert.matches("^HTTP/1.1 408 ", c.buffer)
      end)

      it("end an idle connection, and one that drips its next request", function()
        local c, drip = connect(nil, impatient), connect(nil, impatient)
        assert.equal(200, c:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
        assert.equal(200, drip:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
        for _ = 1, 600 do
          if drip.is_ended then break end
          drip:send("G")
          drip:fill(0.1)
        end
        assert.is_true(drip.is_ended)
        assert.is_true(c:is_closed())
      end)

      it("answer for a handler that takes too long", function()
        local c = connect(nil, impatient)
        local r = c:ask("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        assert.equal(503, r.status)
        assert.matches('"code":"timeout"', r.body, 1, true)
        impatient:logs("held one closed")
        assert.equal(200, c:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
      end)

      it("end a client that does not read", function()
        local path = os.tmpname()
        assert(os.execute("head -c 20000000 /dev/zero >" .. path))
        local file, stream = connect(4096, impatient), connect(4096, impatient)
        file:send("GET /file?path=" .. path .. " HTTP/1.1\r\nHost: a\r\n\r\n")
        stream:send("GET /stream?n=1000000&times=1000 HTTP/1.1\r\nHost: a\r\n\r\n")
        for _, name in ipairs { "file", "stream" } do
          impatient:logs("complete: GET /" .. name .. " 200 ")
          local bytes, finished = impatient:log():match("complete: GET /" .. name .. " 200 (%d+) (%a+)\n")
          assert.equal("false", finished)
          assert.is_true(tonumber(bytes) < 5000000)
        end
        os.remove(path)
      end)
    end)

    describe("failures of a handler", function()
      it("are 500 without a reason, and logged with it", function()
        for _, path in ipairs { "/error", "/object", "/silent", "/yield" } do
          local c = connect()
          local r = c:ask("GET " .. path .. " HTTP/1.1\r\nHost: a\r\n\r\n")
          assert.equal(500, r.status)
          assert.equal('{"code":"internal","message":"the request could not be handled"}', r.body)
          assert.equal(200, c:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
        end
        server:logs("secret reason\nstack traceback:")
        server:logs("returned without an answer")
        server:logs("cannot wait for such a value")
      end)

      it("cut a stream", function()
        local r = get("/stream?n=3&fail=1")
        assert.equal("1\n2\n3\n", r.body)
        assert.is_false(r.complete)
        server:logs("in the middle")
      end)

      it("do not stop the loop, when it never ends", function()
        local loop, other = connect(), connect()
        loop:send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
        assert.equal(200, other:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
        assert.equal(500, loop:response().status)
        server:logs("script ran for more than 1000 ms without waiting")
      end)
    end)

    describe("HEAD", function()
      it("has the length and no body", function()
        local path = os.tmpname()
        assert(os.execute("head -c 300000 /dev/zero >" .. path))
        for target, length in pairs { ["/abc"] = "9", ["/file?path=" .. path] = "300000" } do
          local c = connect()
          local r = c:ask("HEAD " .. target .. " HTTP/1.1\r\nHost: a\r\n\r\n", true)
          assert.equal(length, r.headers["content-length"])
          assert.equal("path /next", c:ask("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").body)
        end
        local c = connect()
        assert.equal("chunked", c:ask("HEAD /stream?n=3 HTTP/1.1\r\nHost: a\r\n\r\n", true).headers["transfer-encoding"])
        assert.is_true(c:is_closed())
        assert.equal("", c.buffer)
        os.remove(path)
      end)
    end)

    describe("files", function()
      local path, text

      setup(function()
        path = os.tmpname()
        local random = assert(io.open("/dev/urandom", "rb"))
        text = random:read(1048576)
        random:close()
        local file = assert(io.open(path, "wb"))
        for _ = 1, 50 do file:write(text) end
        file:close()
      end)

      teardown(function()
        os.remove(path)
      end)

      it("are sent whole, 50 MiB, and in parts", function()
        local size = 50 * 1048576
        assert.is_true(text:rep(50) == get("/file?path=" .. path).body)
        for _, range in ipairs { { 0, 1 }, { 1, 100 }, { 5, 65536 }, { 1048570, 65537 }, { 12345678, 3000000 },
          { 7, 4194304 }, { 7, 4194305 }, { size - 1, 1 },
          { size, 0 }, { 20000000, size - 20000000 } } do
          local r = get(("/file?path=%s&offset=%d&length=%d"):format(path, range[1], range[2]))
          assert.equal(206, r.status)
          assert.equal(range[2], #r.body)
          local from = range[1] % 1048576
          assert.is_true(r.body == text:rep(range[2] // 1048576 + 2):sub(from + 1, from + range[2]))
        end
        server:logs(("complete: GET /file 200 %d true"):format(size))
      end)

      it("are not there, too short or no files", function()
        assert.equal("ENOENT", get("/file?path=/nonexistent").body)
        assert.equal("EINVAL", get("/file?path=/tmp").body)
        assert.equal("EINVAL", get("/file?path=/dev/zero").body)
        assert.equal("ERANGE", get(("/file?path=%s&offset=%d&length=1"):format(path, 50 * 1048576)).body)
        assert.equal("ERANGE", get(("/file?path=%s&offset=-1"):format(path)).body)
      end)

      it("keep the connection when they are short", function()
        local c = connect()
        for i = 1, 5 do
          local r = c:ask(("GET /file?path=%s&offset=%d&length=1048576 HTTP/1.1\r\nHost: a\r\n\r\n"):format(path, i * 1048576))
          assert.is_true(r.body == text)
        end
      end)

      for name, more in pairs { long = "", short = "&length=4000000" } do
      it("tell what arrived when they are cut: " .. name, function()
        local c = connect(65536)
        c:send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        c:response()
        c:send("GET /file?path=" .. path .. more .. " HTTP/1.1\r\nHost: a\r\n\r\n")
        local got = 0
        while got < 1500000 do
          assert(c:fill())
          got, c.buffer = got + #c.buffer, ""
        end
        got = got - 200 -- a head has fewer bytes
        local before = #server:log()
        c:reset()
        server:logs("complete: GET /file 200 ", before)
        local bytes = server:log():sub(before):match("complete: GET /file 200 (%d+) false\n")
        -- Beyond what was read there is what lay in the client's buffer.
        assert.is_true(tonumber(bytes) >= got and tonumber(bytes) < got + 500000, bytes .. " of " .. got)
      end)
      end
    end)

    describe("clients that go", function()
      it("in the middle of a body leave nothing behind", function()
        for i = 1, 20 do
          local c = connect()
          c:send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello")
          if i % 2 == 0 then c:reset() else c:close() end
        end
        assert.equal(200, get("/").status)
      end)

      it("end a handler that waits, at a reset at once", function()
        local c, before = connect(), #server:log()
        c:send("GET /hold?reset HTTP/1.1\r\nHost: a\r\n\r\n")
        server:logs("held one begins", before)
        c:reset() -- the server's own limit is ten minutes
        server:logs("held one closed", before)
        server:logs("complete: GET /hold 0 0 false", before)
      end)

      it("are answered when they only said that they will send no more", function()
        local c = connect()
        c:send("GET /sleep?s=0.1 HTTP/1.1\r\nHost: a\r\n\r\n")
        c:finish()
        assert.equal("slept", c:response().body)
      end)

      it("are not waited for much longer then", function()
        local hasty = child.start { limits = { half_close_seconds = 1, handler_seconds = 600 }, run = { handler = handler } }
        local c = connect(nil, hasty)
        c:send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        c:finish()
        assert.is_true(c:is_closed())
        assert.equal("", c.buffer)
        hasty:stop()
      end)

      it("end a stream", function()
        local c = connect()
        c:send("GET /stream?n=2&hold=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        repeat c:fill() until c.buffer:find("2\n", 1, true)
        local before = #server:log()
        c:close()
        server:logs("held one closed", before)
        server:logs("complete: GET /stream 200 4 ", before)
      end)
    end)

    describe("streams", function()
      it("come as they are written, and end", function()
        local r = get("/stream?n=1000&times=500")
        local want = {}
        for i = 1, 1000 do want[i] = ("%d\n"):format(i):rep(500) end
        assert.is_true(r.complete)
        assert.is_true(table.concat(want) == r.body)
        assert.equal("close", r.headers.connection)
        server:logs(("complete: GET /stream 200 %d true"):format(#r.body))
      end)
    end)

    it("serves beside 1,000 idle connections, and loses nothing over 10,000 requests #size", function()
      local idle = {}
      for i = 1, 1000 do
        idle[i] = tcp.connect(server.port)
      end
      assert.equal(200, get("/").status)
      for i = 1, 1000 do idle[i]:close() end
      local function some()
        for _ = 1, 25 do
          local c = tcp.connect(server.port)
          for i = 1, 4 do
            c:send(("GET /n HTTP/1.1\r\nHost: a\r\n\r\n"):rep(10))
            for _ = 1, 10 do assert.equal(200, c:response().status) end
            c:send(("GET /sleep?s=0.00%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i % 2))
            assert.equal("slept", c:response().body)
            c:send("GET /error HTTP/1.1\r\nHost: a\r\n\r\n")
            c:response()
          end
          c:close()
        end
      end
      for _ = 1, 3 do some() end
      get("/collect")
      local fds, memory = server:usage()
      for _ = 1, 7 do some() end
      get("/collect")
      local deadline = httpd.now() + 60
      local fds_after, memory_after
      repeat
        fds_after, memory_after = server:usage()
      until fds_after <= fds or httpd.now() > deadline
      assert.is_true(fds_after <= fds, ("%d, then %d descriptors"):format(fds, fds_after))
      -- A forked child also copies pages of the spec's own heap as it goes.
      -- (A sanitizer keeps what was freed.)
      assert.is_true(memory_after <= memory + 4096 or memory > 65536, ("%d, then %d KiB"):format(memory, memory_after))
    end)
  end)

  describe("the loop", function()
    it("sleeps in order, and knows the running task", function()
      inside(function()
        local order = {}
        for i, seconds in ipairs { 1.5, 0.5, 1 } do -- far enough apart for a machine that lets us wait
          httpd.spawn(function()
            httpd.sleep(seconds)
            order[#order + 1] = i
          end)
        end
        while #order < 3 do
          assert.is_true(httpd.sleep(0.06))
        end
        assert.same({ 2, 3, 1 }, order)
        assert.equal("running", httpd.current():status())
        raises("not a time", httpd.sleep, -1)
        raises("not a time", httpd.sleep, 0 / 0)
      end)
    end)

    it("waits for descriptors, for one or for several", function()
      inside(function()
        local r, w = unistd.pipe()
        local r2, w2 = unistd.pipe()
        assert.equal("w", httpd.wait(w, "w", 60))
        local _, message, code = httpd.wait(r, "r", 0.01)
        assert.same({ "wait: nothing was ready in time", "timeout" }, { message, code })
        httpd.spawn(function() unistd.write(w2, "x") end)
        local fd, events = httpd.wait({ { fd = r, events = "r" }, { fd = r2, events = "r" } }, nil, 60)
        assert.same({ r2, "r" }, { fd, events })
        httpd.spawn(function() assert.equal("EBUSY", select(3, httpd.wait(r, "r", 1))) unistd.write(w, "x") end)
        assert.equal("r", httpd.wait(r, "r", 60))
        for _, d in ipairs { r, w, r2, w2 } do unistd.close(d) end
        assert.equal("EBADF", select(3, httpd.wait(r, "r", 1)))
        local file = assert(io.open("Makefile"))
        assert.equal("EPERM", select(3, httpd.wait(require("posix.stdio").fileno(file), "r", 1)))
        file:close()
        raises("events must be", httpd.wait, 1, "x")
        raises("nothing to wait for", httpd.wait, {})
        raises("fd must be", httpd.wait, { { fd = "x", events = "r" } })
      end)
    end)

    it("parks and wakes, and tells who is over", function()
      inside(function()
        local me = httpd.current()
        local task = httpd.spawn(function(a, b)
          assert.same({ 1, 2 }, { a, b })
          assert.is_true(me:wake("x", nil, "y"))
          assert.is_false(me:wake("again"))
          return httpd.park()
        end, 1, 2)
        assert.equal("ready", task:status())
        assert.same({ n = 3, "x", nil, "y" }, table.pack(httpd.park(60)))
        httpd.sleep(0)
        assert.equal("waiting", task:status())
        assert.is_true(task:wake())
        httpd.sleep(0.01)
        assert.equal("dead", task:status())
        assert.is_false(task:wake())
        assert.is_false(task:cancel())
        assert.equal("timeout", select(3, httpd.park(0.01)))
      end)
    end)

    it("cancels a task, which closes what it has", function()
      inside(function()
        local closed = {}
        local function hold(name, f)
          return httpd.spawn(function()
            local _ <close> = setmetatable({}, { __close = function() closed[#closed + 1] = name end })
            f()
          end)
        end
        local r, w = unistd.pipe()
        local tasks = {
          hold("sleep", function() httpd.sleep(100) end), hold("park", httpd.park),
          hold("wait", function() httpd.wait(r, "r") end),
          hold("nested", function() pcall(function() while true do pcall(httpd.sleep, 100) end end) end),
        }
        httpd.sleep(0)
        for _, task in ipairs(tasks) do assert.is_true(task:cancel()) end
        httpd.sleep(0.01)
        table.sort(closed)
        assert.same({ "nested", "park", "sleep", "wait" }, closed)
        assert.is_nil((httpd.wait(r, "r", 0.01))) -- nobody else waits for it
        unistd.close(r)
        unistd.close(w)
      end)
    end)

    it("refuses to wait where Lua cannot", function()
      inside(function()
        local co = coroutine.wrap(function() return pcall(httpd.sleep, 0) end)
        local ok, message = co()
        assert.is_false(ok)
        assert.matches("in a coroutine of the loop", message)
        raises("in a coroutine of the loop", table.sort, { 2, 1 }, function() httpd.sleep(0) end)
        assert.is_true(httpd.sleep(0))
      end)
    end)

    it("ends what runs too long, wherever it is, and nothing else", function()
      local logged = {}
      local loops = {
        function() while true do end end,
        function() while true do pcall(function() while true do end end) end end,
        function() local function f() while true do end end xpcall(f, f) end,
        function() coroutine.wrap(function() while true do end end)() end,
        function() while true do coroutine.wrap(function() while true do pcall(error) end end)() end end,
        function() local co = coroutine.create(function() while true do pcall(error) end end) while true do coroutine.resume(co) end end,
        function() table.sort({ 3, 2, 1 }, function() while true do pcall(error) end end) end,
        function() local _ <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) error("x") end,
        function() error(setmetatable({}, { __tostring = function() while true do pcall(error) end end })) end,
        function() while true do setmetatable({}, { __gc = function() end }) end end,
      }
      inside(function()
        local going = 0
        local beat = httpd.spawn(function() while true do httpd.sleep(0.01) going = going + 1 end end)
        for i, f in ipairs(loops) do
          local task = httpd.spawn(f)
          local began = httpd.now()
          repeat httpd.sleep(0.02) until task:status() == "dead" or httpd.now() - began > 60
          assert.equal("dead", task:status(), "loop " .. i)
        end
        assert.is_true(going > 5)
        assert.equal("waiting", beat:status())
      end, { on_log = function(_, text) logged[#logged + 1] = text end }, { slice_ms = 100 })
      assert.equal(#loops, #logged, table.concat(logged, "\n"))
      assert.matches("^script ran for more than 100 ms without waiting\nstack traceback:", logged[1])
    end)

    it("ticks, takes signals and tells failures of the background", function()
      local ticks, running, most, signals, logged = 0, 0, 0, {}, {}
      inside(function()
        httpd.spawn(error, "background")
        local signal = require "posix.signal"
        signal.kill(unistd.getpid(), signal.SIGHUP)
        signal.kill(unistd.getpid(), signal.SIGUSR1)
        while ticks < 3 or #signals < 2 do
          httpd.sleep(0.01)
        end
      end, {
        tick = 0.02,
        on_tick = function()
          ticks, running = ticks + 1, running + 1
          most = math.max(most, running)
          httpd.sleep(0.05)
          running = running - 1
        end,
        signals = { "HUP", "USR1" },
        on_signal = function(name) signals[#signals + 1] = name end,
        on_log = function(level, text) logged[#logged + 1] = level .. ": " .. text end,
      })
      assert.equal(1, most) -- the next one begins when the one before is over
      table.sort(signals)
      assert.same({ "HUP", "USR1" }, signals)
      assert.matches("^error: background\nstack traceback:", logged[1])
    end)

    it("waits for the database, and finishes a statement before it ends the one who asked", function()
      local url = require("spec.support.postgres").database("httpd")
      local pg = require "atelier.pg"
      local conn = assert(pg.connect(url, { yield = true }))
      -- Another connection holds the lock that a statement waits for.
      local holder = assert(pg.connect(url))
      assert(holder:query "select pg_advisory_lock(1)")
      inside(function()
        local other = 0
        httpd.spawn(function()
          for _ = 1, 5 do httpd.sleep(0.005) other = other + 1 end
          assert(holder:query "select pg_advisory_unlock(1)")
        end)
        assert.equal(7, assert(conn:query("select 7 as n, pg_advisory_xact_lock(1)"))[1].n)
        assert.equal(5, other)
        assert.equal("timeout", select(3, conn:query("select pg_sleep(60)", nil, { timeout = 0.05 })))
        local closed = false
        assert(holder:query "select pg_advisory_lock(1)")
        local task = httpd.spawn(function()
          local _ <close> = setmetatable({}, { __close = function() closed = true end })
          conn:query "select pg_advisory_xact_lock(1)"
          error("not reached")
        end)
        httpd.sleep(0.02)
        task:cancel()
        httpd.sleep(0.05)
        assert.is_false(closed)
        assert(holder:query "select pg_advisory_unlock(1)")
        repeat httpd.sleep(0.01) until task:status() == "dead"
        assert.is_true(closed)
        assert.equal(8, assert(conn:query "select 8 as n")[1].n)
      end)
      conn:close()
      holder:close()
    end)

    it("serves requests beside it", function()
      inside(function(server)
        local fd = tcp.connect(server:port()).fd
        unistd.write(fd, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert.equal("r", httpd.wait(fd, "r", 60))
        assert.matches("^HTTP/1.1 200 OK\r\n.*\r\n\r\nok$", unistd.read(fd, 1000))
        local stats = server:stats()
        assert.same({ 1, 1, 0, false }, { stats.connections, stats.requests, stats.refused, stats.draining })
        raises("runs already", server.run, server, { handler = print })
        raises("the server runs", server.close, server)
        unistd.close(fd)
      end)
    end)
  end)

  describe("respond", function()
    it("raises for what cannot be sent, and sends nothing then", function()
      local seen
      inside(function(server)
        local fd = tcp.connect(server:port()).fd
        unistd.write(fd, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert.equal("r", httpd.wait(fd, "r", 60))
        unistd.close(fd)
        local deadline = httpd.now() + 60
        repeat httpd.sleep(0.01) until not seen:is_open() or httpd.now() > deadline
        assert.same({ n = 3, nil, "respond: the client is gone, or the request was cancelled", "closed" },
          table.pack(seen:respond { body = "late" }))
        assert.equal("GET", seen.method)
        assert.equal("atelier.httpd.request: over", tostring(seen))
        assert.is_false(seen:is_open())
        assert.equal("closed", select(3, seen:write("x")))
        seen:close()
      end, { handler = function(request)
        seen = request
        request.mine = 5
        assert.equal(5, request.mine)
        assert.is_true(request:is_open())
        raises("table expected", request.respond, request)
        raises("unknown option 'boddy'", request.respond, request, { boddy = "" })
        raises("must be 200 to 599", request.respond, request, { status = 100 })
        raises("of this status has no body", request.respond, request, { status = 304, body = "x" })
        raises("is enough", request.respond, request, { body = "x", stream = true })
        raises("must be a string", request.respond, request, { body = 5 })
        raises("'headers' must be a table", request.respond, request, { headers = 1 })
        for _, bad in ipairs { "a\rb", "a\nb", "a\0b", "\127" } do
          raises("control character", request.respond, request, { headers = { ["X-A"] = bad } })
          raises("no header name", request.respond, request, { headers = { [bad] = "x" } })
        end
        raises("set by the server", request.respond, request, { headers = { ["content-LENGTH"] = "5" } })
        raises("must be a string", request.respond, request, { headers = { ["X-A"] = true } })
        raises("needs 'path', 'fd' or 'handle'", request.respond, request, { file = {} })
        raises("NUL byte", request.respond, request, { file = { path = "/tmp\0x" } })
        raises("unknown option 'size'", request.respond, request, { file = { size = 1 } })
        raises("not answered yet", request.write, request, "x")
        assert.is_true(request:respond { headers = { ["X-N"] = 5, ["X-L"] = { "a", "b" }, ["X-E"] = "" } })
        raises("answered already", request.respond, request, {})
        raises("no stream", request.write, request, "x")
      end, on_log = error })
    end)
  end)

  describe("drain", function()
    it("refuses new connections, finishes what is under way, ends idle ones and streams", function()
      local server = child.start { drain = 120, run = { handler = function(request, server, log)
        if request.path == "/stream" then
          request:respond { stream = true }
          request:write "begun\n"
          httpd.park()
        end
        if request.path == "/busy" then
          log:write("busy one begins\n")
          repeat httpd.sleep(0.01) until server:stats().draining
          httpd.sleep(0.1)
        end
        request:respond { body = "done" }
      end } }
      local busy, idle, stream = tcp.connect(server.port), tcp.connect(server.port), tcp.connect(server.port)
      idle:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      stream:send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
      repeat stream:fill() until stream.buffer:find("begun", 1, true)
      busy:send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
      server:logs("busy one begins")
      server:kill()
      assert.is_true(idle:is_closed())
      assert.is_false(pcall(tcp.connect, server.port))
      local r = busy:response()
      assert.same({ "done", "close" }, { r.body, r.headers.connection })
      r = stream:response()
      assert.same({ "begun\n", true }, { r.body, r.complete })
      for _, c in ipairs { busy, idle, stream } do c:close() end
      local how, code = server:wait()
      assert.same({ "exited", 0 }, { how, code })
      assert.matches("complete: GET /busy 200 4 true", server:log(), 1, true)
      os.remove(server.path)
    end)

    it("cuts off what takes longer than its time", function()
      local server = child.start { drain = 0.2, run = { handler = function(_, _, log)
        log:write("it begins\n")
        httpd.sleep(600)
      end } }
      local c = tcp.connect(server.port)
      c:send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      server:logs("it begins")
      server:kill()
      assert.is_true(c:is_closed())
      assert.same({ "exited", 0 }, { server:wait() })
      assert.matches("complete: GET / 0 0 false", server:log(), 1, true)
      c:close()
      os.remove(server.path)
    end)
  end)
end)
