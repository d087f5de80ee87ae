-- What the network sends when it means no good, against the whole API: framing, limits, names, tokens, other people's ids.
local api = require "spec.support.api"
local crypto = require "atelier.crypto"
local json = require "atelier.json"

describe("the API under hostile requests", function()
  local service, token
  setup(function()
    service = api.start { config = { cors_origins = { "https://shop.example" } } }
    token = service:token(service.pro.user)
    service:file "max"
  end)
  teardown(function()
    -- Nothing of it may have been an error of ours, and no token may be in the log.
    local log = service:log() .. service.child:log()
    assert.is_nil(log:find(" error ", 1, true), log)
    assert.is_nil(log:find("error:", 1, true), log)
    assert.is_nil(log:find(token:match "%.(.-)%.", 1, true))
    service:stop()
  end)

  -- Sends bytes and gives the first answer, which must be a problem of the form that all have.
  local function send(text)
    local client = service:connect()
    client:send(text)
    local answer = client:response()
    client:close()
    return answer
  end

  local function status(text)
    local answer = send(text)
    return answer and answer.status
  end

  local function get(path, headers)
    return ("GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"):format(path, token, headers or "")
  end

  local PLANS = "/api/ate/plans"

  it("serves what is in order", function()
    assert.equal(200, status(get(PLANS)))
  end)

  it("refuses every way to say two lengths", function()
    local post = "POST /api/ate/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " .. token
      .. "\r\nContent-Type: application/json\r\n"
    local body = '{"device_hash":"DEV-PRO"}'
    for _, headers in ipairs { "Content-Length: 25\r\nContent-Length: 26\r\n", "Content-Length: 25\r\nContent-Length: 25\r\n",
      "Content-Length: 25\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 25\r\n",
      "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding : chunked\r\n", "Content-Length: +25\r\n", "Content-Length: -1\r\n",
      "Content-Length: 0x19\r\n", "Content-Length: 25 25\r\n", "Content-Length: 99999999999999999999\r\n" } do
      local client = service:connect()
      client:send(post .. headers .. "\r\n" .. body .. get("/healthz"))
      local answer = client:response()
      assert.is_true(answer.status >= 400 and answer.status < 500, headers)
      -- What follows is not taken for a request of its own.
      assert.is_true(client:is_closed(60), headers)
      assert.is_nil(client.buffer:find('"status":"ok"', 1, true), headers)
      client:close()
    end
  end)

  it("refuses two headers where there may be one, among them two tokens", function()
    for _, header in ipairs { "Authorization: Bearer x\r\n", "Host: y\r\n", "Origin: a\r\nOrigin: b\r\n",
      "Content-Type: a\r\nContent-Type: b\r\n" } do
      assert.equal(400, status(get(PLANS, header)))
    end
  end)

  it("refuses lines that are malformed", function()
    for _, text in ipairs { "GET\r\n\r\n", "GET /healthz\r\n\r\n", "GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
      "GET healthz HTTP/1.1\r\nHost: x\r\n\r\n", "G(T /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /healthz HTTP/1.1\r\n\r\n",
      get("/healthz", "no colon\r\n"), get("/healthz", "a b: c\r\n"), get("/healthz", "X: a\0b\r\n"), get("/healthz", " folded\r\n"),
      get("/healthz", "X: a\rb\r\n"), "\22\3\1\2\0\1\0\1\252\3\3" .. ("x"):rep(100) .. "\r\n\r\n" } do
      local code = status(text)
      assert.is_true(code == nil or code >= 400 and code < 600, text)
    end
    assert.equal(200, status(get(PLANS)))
  end)

  it("has limits on the line, the headers and the body", function()
    assert.equal(414, status(get("/" .. ("x"):rep(9000))))
    assert.equal(431, status(get("/healthz", ("X: y\r\n"):rep(150))))
    local large = status(get("/healthz", "X: " .. ("y"):rep(60000) .. "\r\n"))
    assert.is_true(large == 431 or large == 400 or large == nil, tostring(large))
    assert.equal(413, service:request("POST", "/api/ate/generate", { token = token, body = ("x"):rep(20000),
      headers = { ["Content-Type"] = "application/json" } }).status)
    -- Endless, and to a path that takes nothing at all.
    for _, path in ipairs { "/api/ate/generate", "/api/ate/plans", "/nothing" } do
      local client = service:connect()
      client:send(("POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"):format(path))
      for _ = 1, 40 do
        if not client:send("1000\r\n" .. ("x"):rep(4096) .. "\r\n") then break end
      end
      local answer = client:response()
      assert.is_true(answer == nil or answer.status >= 400 and answer.status < 500)
      client:close()
    end
  end)

  it("refuses a body where none belongs, before it is sent", function()
    local answer = send(get(PLANS, "Content-Length: 5\r\n"))
    assert.equal(400, answer.status)
    assert.equal("bad_request", json.decode(answer.body).code)
    answer = send("POST /api/ate/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert.equal(404, answer.status)
    answer = send("PUT /api/ate/plans HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert.equal(405, answer.status)
    assert.equal("GET, HEAD, OPTIONS", answer.headers.allow)
  end)

  it("answers unknown paths with 404, wrong methods with 405, never more", function()
    for _, path in ipairs { "/", "/api", "/api/", "/api/ate", "/api/ate/", "/api/ate/plans/", "/API/ATE/PLANS", "/api/ate/plansx",
      "/api//ate/plans", "/api/ate/files/1/2", "/robots.txt", "/.env", "/api/ate/%E2%82%AC" } do
      local answer = service:get(path, { token = token })
      assert.same({ 404, "not_found" }, { answer.status, answer.json.code }, path)
    end
    for _, method in ipairs { "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO" } do
      local answer = send(("%s /api/ate/plans HTTP/1.1\r\nHost: x\r\n\r\n"):format(method))
      assert.equal(405, answer.status, method)
      assert.equal("GET, HEAD, OPTIONS", answer.headers.allow)
    end
    assert.equal("OPTIONS, POST", service:get("/api/ate/generate", { token = token }).headers.allow)
  end)

  it("refuses paths and queries that are tricks", function()
    for _, path in ipairs { "/api/ate/../ops/queue", "/api/ate/./plans", "/api/ate/%2e%2e/ops", "/api/ate%2Fplans", "/api/ate/pl%00ans",
      "/api/ate/plans%", "/api/ate/plans%zz", "/api/ate/\\plans", "/api/ate/%ff", "/api/ate/plans?limit=%00", "/api/ate/plans?a=%ff",
      "/api/ate/plans?limit=%", "//evil.example/%2e%2e" } do
      local code = status(get(path))
      assert.is_true(code == 400 or code == 404, path .. " " .. tostring(code))
    end
  end)

  it("refuses parameters that come twice or are unknown, by name", function()
    for query, name in pairs { ["limit=1&limit=2"] = "limit", ["limit=1&limit=1"] = "limit", ["x=1"] = "x", ["limit=1&y"] = "y",
      ["limit=1&%6cimit=2"] = "limit", ["=1"] = "", [("z"):rep(500) .. "=1"] = ("z"):rep(64) } do
      local answer = service:get(PLANS .. "?" .. query, { token = token })
      assert.same({ 400, "bad_parameter", name }, { answer.status, answer.json.code, answer.json.details }, query)
    end
    assert.equal(200, service:get(PLANS .. "?", { token = token }).status)
  end)

  it("refuses device hashes and templates at the door", function()
    for _, hash in ipairs { "", ".", "..", ".hidden", "a/b", "a%20b", "%27%20or%201=1", "a%0Ab", "%E6%97%A5", ("x"):rep(129), "a%3Bb" } do
      local answer = service:get("/api/ate/status?device_hash=" .. hash, { token = token })
      assert.same({ 400, "device_hash" }, { answer.status, answer.json.details }, hash)
      answer = service:get("/api/ate/status?device_hash=DEV-PRO&template=" .. hash, { token = token })
      assert.equal(400, answer.status, hash)
    end
    assert.equal(400, service:get("/api/ate/status", { token = token }).status)
  end)

  it("treats other people's devices as if they were not there", function()
    local function strip(answer, hash)
      local copy = {}
      for name, value in pairs(answer.json) do copy[name] = type(value) == "string" and value:gsub(hash, "HASH") or value end
      return { answer.status, copy }
    end
    for _, path in ipairs { "/api/ate/status", "/api/ate/license" } do
      local theirs = service:get(path .. "?device_hash=DEV-MAX", { token = token })
      local nobodys = service:get(path .. "?device_hash=DEV-NIL", { token = token })
      assert.equal(404, theirs.status)
      assert.same(strip(nobodys, "DEV%-NIL"), strip(theirs, "DEV%-MAX"))
    end
    local theirs = service:post("/api/ate/generate", { device_hash = "DEV-MAX" }, { token = token })
    local nobodys = service:post("/api/ate/generate", { device_hash = "DEV-NIL" }, { token = token })
    assert.same(strip(nobodys, "DEV%-NIL"), strip(theirs, "DEV%-MAX"))
    local file = service.conn:query("select id::text from ate_files")[1].id
    assert.equal(404, service:get("/api/ate/download/" .. file, { token = token }).status)
    assert.same({}, service:get("/api/ate/history?ate_file_id=" .. file, { token = token }).json.items)
    assert.same({}, service:get("/api/ate/files?device_hash=DEV-MAX", { token = token }).json.items)
    -- A user's id that no one has.
    local stranger = service:token "ffffffff-ffff-4fff-8fff-ffffffffffff"
    assert.same({}, service:get("/api/ate/files", { token = stranger }).json.items)
    assert.equal(404, service:get("/api/ate/status?device_hash=DEV-PRO", { token = stranger }).status)
  end)

  it("wants a good token on every route of a user, and says so the same everywhere", function()
    local document = service:get("/api/ate/openapi.json").json
    local count = 0
    local expired = service:token(service.pro.user, { exp = os.time() - 100 })
    local anon = service:token(nil, { role = "anon", aud = json.null })
    for path, methods in pairs(document.paths) do
      for method, operation in pairs(methods) do
        local kind = operation.security[1] and next(operation.security[1])
        if kind then
          count = count + 1
          local target = path:gsub("{.-}", "3f0c2b6e-7c1d-4e0a-9a59-0f6f3a1f2b11")
          local function ask(text)
            local answer = service:request(method:upper(), target, { token = text })
            return { answer.status, answer.headers["www-authenticate"] ~= nil, answer.json and answer.json.code }
          end
          local function says(number, is_told, code)
            return { number, is_told, method ~= "head" and code or nil } -- HEAD has no body to say it in
          end
          if not operation.security[2] then assert.same(says(401, true, "no_token"), ask(nil), path) end
          assert.same(says(401, true, "bad_token"), ask "x.y.z", path)
          assert.same(says(401, true, "token_expired"), ask(expired), path)
          assert.same(says(401, true, "not_signed_in"), ask(anon), path)
          assert.same(says(403, false, "wrong_role"), ask(kind == "user" and service:operator() or token), path)
        end
      end
    end
    assert.is_true(count >= 8)
  end)

  it("takes no token from the query or a cookie", function()
    assert.equal(400, service:get(PLANS .. "?access_token=" .. token, { token = token }).status)
    assert.equal(401, service:get(PLANS .. "?token=" .. token).status)
    assert.equal(401, service:get(PLANS, { headers = { Cookie = "token=" .. token } }).status)
  end)

  it("tells no inside in any refusal", function()
    for _, path in ipairs { "/api/ate/status?device_hash=DEV-PRO&template=" .. ("x"):rep(64), "/api/ate/files?after=AAAA", "/x" } do
      local body = service:get(path, { token = token }).body
      for _, word in ipairs { "lua", "traceback", "select", "postgres", "/work" } do
        assert.is_nil(body:find(word, 1, true), body)
      end
    end
  end)

  it("answers HEAD as GET without its body", function()
    local got = service:get(PLANS, { token = token })
    local client = service:connect()
    local head = client:ask(("HEAD %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"):format(PLANS, token), true)
    assert.equal(200, head.status)
    assert.equal(tostring(#got.body), head.headers["content-length"])
    -- The connection goes on with the next request: nothing of a body is left in it.
    assert.equal(200, client:ask(get "/healthz").status)
    client:close()
  end)

  it("marks every answer: its id, no sniffing, no storing", function()
    local seen = {}
    for _, path in ipairs { PLANS, "/healthz", "/nothing", "/api/ate/status" } do
      local headers = service:get(path, { token = token }).headers
      assert.matches("^" .. ("%x"):rep(16) .. "$", headers["x-request-id"])
      assert.is_nil(seen[headers["x-request-id"]])
      seen[headers["x-request-id"]] = true
      assert.equal("nosniff", headers["x-content-type-options"])
      assert.equal("no-store", headers["cache-control"])
    end
  end)

  it("lets pages of listed origins in, and no others", function()
    local function ask(method, origin, more)
      local headers = { Origin = origin }
      for name, value in pairs(more or {}) do headers[name] = value end
      return service:request(method, PLANS, { token = method == "GET" and token or nil, headers = headers })
    end
    local answer = ask("GET", "https://shop.example")
    assert.equal("https://shop.example", answer.headers["access-control-allow-origin"])
    assert.equal("Origin", answer.headers.vary)
    assert.matches("X%-Request%-Id", answer.headers["access-control-expose-headers"])
    assert.is_nil(answer.headers["access-control-allow-credentials"])
    answer = ask("OPTIONS", "https://shop.example", { ["Access-Control-Request-Method"] = "GET" })
    assert.equal(204, answer.status)
    assert.equal("GET, HEAD, POST", answer.headers["access-control-allow-methods"])
    assert.matches("Authorization", answer.headers["access-control-allow-headers"])
    for _, origin in ipairs { "https://shop.example.evil.example", "http://shop.example", "https://shop.example:444", "null",
      "https://SHOP.example", "https://evil.example" } do
      for _, method in ipairs { "GET", "OPTIONS" } do
        answer = ask(method, origin, { ["Access-Control-Request-Method"] = "GET" })
        assert.is_nil(answer.headers["access-control-allow-origin"], origin)
        assert.equal("Origin", answer.headers.vary)
      end
    end
    -- Refusals can be read by a page, too.
    answer = service:get(PLANS, { headers = { Origin = "https://shop.example" } })
    assert.equal(401, answer.status)
    assert.equal("https://shop.example", answer.headers["access-control-allow-origin"])
  end)

  it("survives connections that go away at any moment", function()
    local text = get "/api/ate/status?device_hash=DEV-PRO"
    for cut = 1, #text, 7 do
      local client = service:connect()
      client:send(text:sub(1, cut))
      if cut % 2 == 0 then client:reset() else client:close() end
    end
    for _ = 1, 50 do
      local client = service:connect()
      client:send(text)
      client:reset()
    end
    assert.equal(200, status(get(PLANS)))
  end)

  it("serves many requests in a row, and pipelined ones in order", function()
    local client = service:connect()
    client:send(get("/healthz"):rep(3) .. get(PLANS) .. get "/nothing")
    local got = {}
    for i = 1, 5 do got[i] = client:response().status end
    assert.same({ 200, 200, 200, 200, 404 }, got)
    client:close()
  end)

  it("never takes random bytes for a token", function()
    for i = 1, 200 do
      local bytes = crypto.base64url_encode(crypto.random(i % 97 + 1))
      local text = i % 3 == 0 and bytes or bytes .. "." .. bytes .. "." .. bytes
      assert.equal(401, service:get(PLANS, { token = text }).status)
    end
  end)
end)

describe("the API's rate", function()
  it("is limited for each user", function()
    local service = api.start { config = { rate_limit = 0.01, rate_burst = 3 } }
    local one, other = service:token(service.pro.user), service:token(service.max.user)
    for _ = 1, 3 do assert.equal(200, service:get("/api/ate/plans", { token = one }).status) end
    local answer = service:get("/api/ate/plans", { token = one })
    assert.same({ 429, "too_many_requests" }, { answer.status, answer.json.code })
    assert.is_true(tonumber(answer.headers["retry-after"]) >= 1)
    -- Another token of the same user is the same user.
    assert.equal(429, service:get("/api/ate/plans", { token = service:token(service.pro.user, { exp = os.time() + 99 }) }).status)
    assert.equal(200, service:get("/api/ate/plans", { token = other }).status)
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)
end)

describe("a handler that fails", function()
  it("is answered 500 and told in the log alone", function()
    package.loaded["spec.api.broken"] = {
      { method = "GET", path = "/broken", auth = "none", handler = function() error("the inside: secret") end },
      { method = "GET", path = "/silent", auth = "none", handler = function() return 200, { bad = "\xff" } end },
      { method = "GET", path = "/stream", auth = "none", handler = function(call)
        call:respond { stream = true }
        call.request:write "begun"
        error "late"
      end },
    }
    local service = api.start { resources = { "spec.api.broken" } }
    for _, path in ipairs { "/broken", "/silent" } do
      local answer = service:get(path)
      assert.same({ 500, "internal" }, { answer.status, answer.json.code })
      assert.is_nil(answer.body:find("secret", 1, true))
      assert.matches("request=" .. answer.headers["x-request-id"], service:log(), 1, true)
    end
    assert.matches("the inside: secret", service:log(), 1, true)
    local client = service:connect()
    local cut = client:ask "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.is_false(cut.complete)
    client:close()
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)

  it("is ended when it loops for ever; others are served", function()
    package.loaded["spec.api.endless"] = {
      { method = "GET", path = "/endless", auth = "none", handler = function()
        while true do pcall(function() while true do end end) end
      end },
    }
    local service = api.start { resources = { "spec.api.endless" }, limits = { slice_ms = 2000 } }
    assert.equal(500, service:get("/endless").status)
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)
end)
