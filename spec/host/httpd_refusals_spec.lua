-- atelier.httpd: its own refusals, forms of targets, responses without a body, streams of a known length.
local child = require "spec.support.httpd_child"
local json = require "atelier.json"
local httpd = require "atelier.httpd"
local tcp = require "spec.support.tcp"
local time = require "posix.time"

local PAGES = {}

PAGES["/304"] = function(request)
  request:respond { status = 304, headers = { ETag = '"a"' }, length = math.tointeger(request.query.length) }
end

PAGES["/stream"] = function(request, _, log)
  local q = request.query
  local ok = request:respond { stream = true, length = tonumber(q.length) }
  for _ = 1, tonumber(q.pieces) do
    if not ok then break end
    local called, result = pcall(request.write, request, ("x"):rep(tonumber(q.size)))
    ok = called and result
    if not called then log:write(result, "\n") end
    if q.wait then httpd.sleep(0.01) end
  end
end

PAGES["/file"] = function(request)
  request:respond { file = { path = request.query.path } }
end

PAGES["/connections"] = function(request, server)
  request:respond { body = tostring(server:stats().connections) }
end

local function handler(request, server, log)
  local page = PAGES[request.path]
  if page then return page(request, server, log) end
  request:respond { body = request.target .. " " .. (request.body or "") }
end

describe("a server", function()
  local server, clients = nil, {}

  setup(function()
    server = child.start { limits = { header_seconds = 600, body_seconds = 600, stall_seconds = 600, body_bytes = 5000 },
      run = { handler = handler, on_start = function() httpd.allow_origins { "https://a.example" } end } }
  end)

  teardown(function() server:stop() end)

  after_each(function()
    for i = #clients, 1, -1 do
      clients[i]:close()
      clients[i] = nil
    end
  end)

  local function connect(window)
    clients[#clients + 1] = tcp.connect(server.port, window)
    return clients[#clients]
  end

  local function ask(text, head)
    return assert(connect():ask(text, head))
  end

  local function all_of(text)
    local c = connect()
    c:send(text)
    assert.is_true(c:is_closed())
    return c.buffer
  end

  describe("refuses in JSON", function()
    -- libmicrohttpd would answer these with pages of its own.
    for name, case in pairs {
      ["a signed length"] = { 400, "bad_request", "Content-Length: +1\r\n\r\n" },
      ["a length beyond numbers"] = { 413, "too_large", "Content-Length: 99999999999999999999999\r\n\r\n" },
      ["a chunk size that is none"] = { 400, "bad_request", "Transfer-Encoding: chunked\r\n\r\nzz\r\n" },
      ["a chunk beyond numbers"] = { 413, "too_large",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n" },
      ["more headers than there is room for"] = { 431, "headers_too_large", ("X: a\r\n"):rep(20000) },
    } do
      it(name, function()
        local head = ("POST / HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n%s"):format(case[3])
        local text = all_of(head)
        assert.equal(tostring(case[1]), text:match "^HTTP/1%.1 (%d+) ", text)
        assert.equal(1, select(2, text:gsub("HTTP/1%.1", "")), text)
        assert.equal(case[2], assert(json.decode(text:match "\r\n\r\n(.*)$")).code)
        assert.truthy(text:find("\r\nAccess-Control-Allow-Origin: https://a.example\r\n", 1, true), text)
      end)
    end

    it("first lines without a form", function()
      for _, line in ipairs { "hello", "GET", " / HTTP/1.1", "GET\t/\tHTTP/1.1", "\0" } do
        local text = all_of(line .. "\r\nHost: a\r\n\r\n")
        assert.matches("^HTTP/1%.1 400 ", text, line)
        assert.equal(1, select(2, text:gsub("HTTP/1%.1 ", "")), text)
        assert.equal("bad_request", json.decode(text:match "\r\n\r\n(.*)$").code)
      end
    end)

    it("other versions", function()
      for _, version in ipairs { "2.0", "0.9" } do
        local text = all_of(("GET / HTTP/%s\r\nHost: a\r\n\r\n"):format(version))
        assert.matches("^HTTP/1%.1 505 ", text)
        assert.equal("version_not_supported", json.decode(text:match "\r\n\r\n(.*)$").code)
      end
    end)

    it("what others ask meanwhile, and goes on", function()
      local good = connect()
      for _ = 1, 50 do
        all_of "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"
        assert.equal(200, good:ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status)
      end
    end)
  end)

  it("lets a connection go whose body turns out malformed behind its refusal", function()
    local long = ("1388\r\n%s\r\n1\r\nx\r\n"):format(("x"):rep(5000)) -- one byte more than it may have
    for _ = 1, 20 do
      local text = all_of("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" .. long .. "zz\r\nx\r\n")
      assert.matches("^HTTP/1%.1 413 ", text)
      assert.equal(1, select(2, text:gsub("HTTP/1%.1", "")), text)
    end
    local deadline = os.time() + 60
    repeat
      time.nanosleep { tv_sec = 0, tv_nsec = 10000000 }
      local c = tcp.connect(server.port)
      local count = c:ask("GET /connections HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").body
      c:close()
      assert(os.time() < deadline, count .. " connections are left")
    until count == "1"
  end)

  it("says nothing to those who say nothing", function()
    for _, text in ipairs { "", "\r\n", "GET / HT" } do
      for _ = 1, 10 do
        local c = connect()
        c:send(text)
        c:finish() -- right behind it: libmicrohttpd overlooks that now and then, which is no reason to wait for more
        assert.is_true(c:is_closed())
        assert.equal("", c.buffer)
      end
    end
  end)

  it("takes as many parameters as fit into a target, and goes on", function()
    for _, query in ipairs { ("a&"):rep(4000), ("&"):rep(8000), ("a=b&"):rep(2000), ("%61&"):rep(2000) } do
      local r = ask("GET /?" .. query .. " HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n")
      assert.same({ 200, "/?" .. query .. " " }, { r.status, r.body })
    end
    local c = connect()
    for _ = 1, 20 do
      assert.equal(200, c:ask("GET /?" .. ("b=&"):rep(2500) .. " HTTP/1.1\r\nHost: a\r\n\r\n").status)
    end
    assert.equal(414, ask("GET /?" .. ("a&"):rep(6000) .. " HTTP/1.1\r\nHost: a\r\n\r\n").status)
  end)

  it("takes as many cookies as fit into a header block, and hands them over as they came", function()
    local roomy = child.start { limits = { header_bytes = 65536, header_seconds = 600, handler_seconds = 600 },
      run = { handler = function(request) request:respond { body = request.headers.cookie } end } }
    for _, cookies in ipairs { ("a;"):rep(500), ("a;"):rep(7000), ("a=b; c;"):rep(2000), ('a="b'):rep(3000), ("="):rep(50) } do
      local text = "GET / HTTP/1.1\r\nHost: a\r\nCookie: " .. cookies .. "\r\n\r\n"
      local c = tcp.connect(roomy.port)
      clients[#clients + 1] = c
      for _ = 1, 3 do assert.is_true(c:ask(text).body == cookies) end
      assert.equal(200, ask(text).status)
    end
    roomy:stop()
  end)

  it("lets allowed origins alone read its refusals", function()
    local function origin_of(origin)
      local r = ask(("POST / HTTP/1.1\r\nHost: a\r\n%sContent-Length: 5001\r\n\r\n"):format(origin))
      assert.same({ 413, "Origin" }, { r.status, r.headers.vary })
      return r.headers["access-control-allow-origin"]
    end
    assert.equal("https://a.example", origin_of "Origin: https://a.example\r\n")
    assert.is_nil(origin_of "Origin: https://b.example\r\n")
    assert.is_nil(origin_of "")
  end)

  it("refuses bodies that are coded, or in another charset", function()
    local function post(lines, status)
      local r = ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" .. lines .. "\r\n\r\n{}")
      assert.equal(status, r.status, lines)
    end
    post("Content-Encoding: gzip", 415)
    post("Content-Encoding: identity, gzip", 415)
    post("Content-Encoding: Identity", 200)
    for value, status in pairs {
      ["application/json; charset=utf-8"] = 200, ['application/json;charset="UTF-8"'] = 200,
      ["application/json; charset=us-ascii"] = 200, ["application/json; charset=utf-16"] = 415,
      ["application/json; a=b ; CharSet=latin1"] = 415, ["application/json; charset="] = 415,
      ["application/json; charset=utf-8x"] = 415, ["application/json;"] = 200, ["application/json; xcharset=b"] = 200,
    } do
      post("Content-Type: " .. value, status)
    end
    assert.equal(200, ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n\r\n").status)
  end)

  it("takes absolute targets for their paths", function()
    for target, path in pairs {
      ["http://b/x?y=1"] = "/x?y=1", ["HTTPS://b:80/"] = "/", ["http://b"] = "/", ["http://[::1]:8/é"] = nil,
      ["http://b?y=1"] = "/?y=1",
    } do
      assert.equal(path .. " ", ask(("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(target)).body)
    end
    assert.equal("* ", ask("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n").body)
  end)

  it("tells of a 304 no length but the one that was named", function()
    local function head_of(query)
      local c, headers = connect(), {}
      c:send(("GET /304%s HTTP/1.1\r\nHost: a\r\n\r\n"):format(query))
      assert.matches("^HTTP/1%.1 304 ", c:line())
      for line in c.line, c do
        if line == "" then break end
        headers[line:match("^[^:]+"):lower()] = line:match ": (.*)"
      end
      assert.equal('"a"', headers.etag)
      return headers, c
    end
    local headers, c = head_of ""
    assert.same({ nil, nil, "close" }, { headers["content-length"], headers["transfer-encoding"], headers.connection })
    assert.is_true(c:is_closed())
    assert.equal("", c.buffer)
    for _, length in ipairs { "12345", "0" } do
      headers, c = head_of("?length=" .. length)
      assert.equal(length, headers["content-length"])
      -- and the connection goes on, behind no body
      assert.equal("/after ", c:ask("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").body)
    end
  end)

  describe("sends a stream of a known length", function()
    local function get(query, method)
      return ("%s /stream?%s HTTP/1.1\r\nHost: a\r\n\r\n"):format(method or "GET", query)
    end

    it("whole", function()
      local r = ask(get "length=1000000&pieces=100&size=10000")
      assert.same({ "1000000", nil, 1000000 },
        { r.headers["content-length"], r.headers["transfer-encoding"], #r.body })
      server:logs "complete: GET /stream 200 1000000 true"
    end)

    it("cut when it ends before", function()
      local c = connect()
      c:send(get "length=1001&pieces=10&size=100")
      assert.is_true(c:is_closed())
      assert.equal(1000, #c.buffer:match "\r\n\r\n(.*)$")
      server:logs "complete: GET /stream 200 1000 false"
    end)

    it("and no byte more", function()
      local r = ask(get "length=150&pieces=1&size=200")
      assert.is_nil(r and r.body and #r.body > 0 or nil)
      server:logs "more than the length that the response has"
    end)

    it("to HEAD in words, on a connection that goes on", function()
      local c = connect()
      for _ = 1, 3 do
        local r = c:ask(get("length=1000&pieces=1&size=1000", "HEAD"), true)
        assert.same({ 200, "1000", nil }, { r.status, r.headers["content-length"], r.headers.connection })
      end
    end)

    it("to its end when the server is told to end", function()
      local other = child.start { run = { handler = handler } }
      local c = tcp.connect(other.port)
      c:send(get "length=2000000&pieces=200&size=10000&wait=1")
      assert.matches("200", c:line())
      other:kill()
      assert.is_true(c:is_closed())
      assert.equal(2000000, #c.buffer:match "\r\n\r\n(.*)$")
      other:logs "complete: GET /stream 200 2000000 true"
      c:close()
      other:stop()
    end)
  end)
end)
