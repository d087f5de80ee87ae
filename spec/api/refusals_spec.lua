-- What is answered before, or beside, any resource: OPTIONS *, refusals of the server below, bodies in other forms.
local api = require "spec.support.api"
local json = require "atelier.json"

describe("the API", function()
  local service, token

  setup(function()
    service = api.start { config = { cors_origins = { "https://shop.example/" } } }
    token = service:token(service.pro.user)
  end)
  teardown(function() service:stop() end)

  local function send(text)
    local client <close> = setmetatable({}, { __close = function(self) self.tcp:close() end })
    client.tcp = service:connect()
    return client.tcp:ask(text)
  end

  it("says what it takes at all, to OPTIONS *", function()
    local answer = send "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"
    assert.same({ 204, "GET, HEAD, OPTIONS, POST", "" }, { answer.status, answer.headers.allow, answer.body })
    assert.equal(400, send("GET * HTTP/1.1\r\nHost: x\r\n\r\n").status)
  end)

  it("takes a target with scheme and host", function()
    local answer = send(("GET http://x/api/ate/plans HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"):format(token))
    assert.equal(200, answer.status)
    assert.equal(200, send("GET http://x/healthz HTTP/1.1\r\nHost: y\r\n\r\n").status)
  end)

  it("lets pages of listed origins read what is refused below it", function()
    for _, lines in ipairs { "Content-Length: +1\r\n", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
      "Expect: miracles\r\nContent-Length: 1\r\n", ("X: a\r\n"):rep(200) } do
      for origin, allowed in pairs { ["https://shop.example"] = "https://shop.example", ["https://evil.example"] = false } do
        local answer = send(("POST /api/ate/generate HTTP/1.1\r\nHost: x\r\nOrigin: %s\r\n%s\r\n"):format(origin, lines))
        assert.is_true(answer.status >= 400 and answer.status < 500)
        assert.same({ allowed, "Origin" }, { answer.headers["access-control-allow-origin"] or false, answer.headers.vary })
        assert.equal("application/json", answer.headers["content-type"])
        assert.equal("string", type(json.decode(answer.body).code))
      end
    end
  end)

  it("takes JSON in UTF-8 alone, uncoded", function()
    local function post(lines)
      local answer = send(("POST /api/ate/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\nContent-Length: 2\r\n\r\n{}")
        :format(token, lines))
      return answer.status, json.decode(answer.body).code
    end
    assert.same({ 415, "unsupported_media_type" }, { post "Content-Type: application/json\r\nContent-Encoding: gzip" })
    assert.same({ 415, "unsupported_media_type" }, { post "Content-Type: application/json; charset=utf-16" })
    assert.same({ 400, "bad_parameter" }, { post "Content-Type: application/json; charset=UTF-8" })
  end)

  it("says of an asset that the page has its length, and goes on", function()
    local client = service:connect()
    local whole = client:ask "GET /dashboard HTTP/1.1\r\nHost: x\r\n\r\n"
    local etag = whole.headers.etag
    if etag then
      client:send(("GET /dashboard HTTP/1.1\r\nHost: x\r\nIf-None-Match: %s\r\n\r\n"):format(etag))
      local head = {}
      for line in client.line, client do
        if line == "" then break end
        head[#head + 1] = line:lower()
      end
      local text = table.concat(head, "\n")
      assert.matches("^http/1%.1 304", text)
      assert.matches("content%-length: " .. #whole.body, text)
      assert.equal(200, client:ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status)
    end
    client:close()
  end)
end)
