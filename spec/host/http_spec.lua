local http = require "atelier.http"
local json = require "atelier.json"

local dir, server, base, raw, tls

local function shell(command)
  assert(os.execute(command), command)
end

local function get(path, more)
  local request = { url = (path:find "^http" and "" or base) .. path }
  for name, value in pairs(more or {}) do request[name] = value end
  return http.request(request)
end

local function ok(path, more)
  local response, message, code = get(path, more)
  assert(response, ("%s (%s)"):format(message, code))
  return response
end

-- Lets the server answer what it holds back: the second of two that belong together.
local function release(key)
  ok("/together?of=2&key=" .. key)
end

local function fails(code, path, more)
  local response, message, got = get(path, more)
  assert.is_nil(response)
  assert.equal(code, got, message)
  assert.truthy(message:find("^request: "), message)
  return message
end

local function raises(text, more)
  assert.error_matches(function() return get("/echo", more) end, text, 1, true)
end

local function file_with(text, mode)
  local path = os.tmpname()
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
  return assert(io.open(path, mode or "rb")), path
end

local function sink()
  local path = os.tmpname()
  return assert(io.open(path, "w+b")), path
end

local function contents(f)
  f:seek("set")
  local text = f:read("a")
  f:close()
  return text
end

setup(function()
  dir = assert(io.popen("mktemp -d")):read()
  shell(("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s/key.pem -out %s/cert.pem "
    .. "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>%s/log"):format(dir, dir, dir))
  server = assert(io.popen(("exec env -u LD_PRELOAD node spec/support/http_server.mjs %s"):format(dir)))
  local a, b, c = assert(server:read()):match("(%d+) (%d+) (%d+)")
  base, raw, tls = "http://127.0.0.1:" .. a, "http://127.0.0.1:" .. b, "https://localhost:" .. c
end)

teardown(function()
  http.request { url = base .. "/quit" }
  server:close()
  shell("rm -r " .. dir)
end)

describe("atelier.http", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, http.live_handles())
  end)

  describe("request", function()
    it("gets a body with status and headers", function()
      local r = ok("/bytes?n=5")
      assert.equal(200, r.status)
      assert.equal("xxxxx", r.body)
      assert.equal(5, r.size)
      assert.equal("5", r.headers["content-length"])
      assert.equal(base .. "/bytes?n=5", r.url)
    end)

    it("takes any status for a response", function()
      assert.equal(404, ok("/nothing").status)
      assert.equal(500, ok("/status?code=500").status)
    end)

    it("sends methods, headers and no more than needed", function()
      local headers = { ["X-One"] = "1", ["X-None"] = "" }
      local seen = json.decode(ok("/echo", { method = "PATCH", headers = headers, body = "b" }).body)
      assert.equal("PATCH", seen.method)
      assert.equal("1", seen.headers["x-one"])
      assert.equal("", seen.headers["x-none"])
      assert.is_nil(seen.headers["expect"])
      assert.is_nil(seen.headers["user-agent"])
      assert.is_nil(seen.headers["accept-encoding"])
      assert.is_nil(seen.headers["content-type"])
      assert.equal("DELETE", json.decode(ok("/echo", { method = "DELETE" }).body).method)
    end)

    it("always sends the exact Content-Length", function()
      local big = ("\0\r\n\255"):rep(700000)
      for _, body in ipairs { "", "x", "a\0b", big } do
        for _, method in ipairs { "POST", "PUT", "DELETE" } do
          local seen = json.decode(ok("/echo", { method = method, body = body }).body)
          assert.equal(tostring(#body), seen.headers["content-length"])
          assert.is_nil(seen.headers["transfer-encoding"])
          assert.equal(#body, seen.length)
        end
      end
      assert.equal("0", json.decode(ok("/echo", { method = "POST" }).body).headers["content-length"])
      assert.is_nil(json.decode(ok("/echo", { method = "DELETE" }).body).headers["content-length"])
    end)

    it("sends from a file, from its position, as long as told", function()
      local f, path = file_with("0123456789")
      assert.equal(10, json.decode(ok("/echo", { method = "PUT", body_file = f }).body).length)
      f:seek("set", 4)
      assert.equal(6, json.decode(ok("/echo", { method = "PUT", body_file = f }).body).length)
      f:seek("set", 1)
      local seen = json.decode(ok("/echo", { method = "PUT", body_file = f, body_length = 3 }).body)
      assert.equal("3", seen.headers["content-length"])
      assert.equal("123456789", (f:seek("set", 1) and f:read("a")))
      f:close()
      os.remove(path)
    end)

    it("sends from a pipe when told the length", function()
      local pipe = assert(io.popen("printf 0123456789"))
      assert.equal(10, json.decode(ok("/echo", { method = "PUT", body_file = pipe, body_length = 10 }).body).length)
      pipe:close()
    end)

    it("fails when the file is shorter than told", function()
      local f, path = file_with("0123456789")
      fails("short_body", "/echo", { method = "PUT", body_file = f, body_length = 11 })
      f:close()
      os.remove(path)
    end)

    describe("from a file that is still being written", function()
      local path, target, source

      before_each(function()
        path = os.tmpname()
        target, source = assert(io.open(path, "wb")), assert(io.open(path, "rb"))
        target:setvbuf "no"
      end)

      after_each(function()
        target:close()
        source:close()
        os.remove(path)
      end)

      local function request()
        return { url = base .. "/echo", method = "PUT", body_file = source, body_length = 10, body_growing = true,
          timeout = 60 }
      end

      it("waits for its end", function()
        local multi <close> = http.multi()
        assert(multi:add(request()))
        for _, piece in ipairs { "", "0123", "45678" } do
          target:write(piece)
          for _ = 1, 5 do
            assert.same({}, multi:run { timeout = 0.02 })
          end
        end
        assert.is_true(multi:timeout() <= 0.005)
        target:write "9"
        local answers = multi:run { timeout = 60 }
        assert.equal(200, answers[1].status, answers[1].error)
        assert.equal(10, json.decode(answers[1].body).length)
      end)

      it("does so in steps, too", function()
        local multi <close> = http.multi()
        assert(multi:add(request()))
        local answers
        for piece in ("0123456789"):gmatch "." do
          target:write(piece)
          assert.same({}, answers or {})
          answers = multi:step()
        end
        local deadline = os.time() + 60
        while not answers[1] and os.time() < deadline do
          local fds = multi:fds()
          answers = fds[1] and multi:step(fds[1].fd, fds[1].events) or multi:step()
        end
        assert.equal(200, answers[1].status, answers[1].error)
      end)

      it("breaks off when it is given up", function()
        local multi <close> = http.multi()
        assert(multi:add(request()))
        target:write "0123"
        assert.same({}, multi:run { timeout = 0.02 })
        os.remove(path)
        assert.equal("short_body", multi:run({ timeout = 60 })[1].code)
      end)

      it("is given up itself at any time", function()
        local multi <close> = http.multi()
        local id = assert(multi:add(request()))
        assert.same({}, multi:run { timeout = 0.02 })
        assert.is_true(multi:cancel(id))
        assert.same({}, multi:run { timeout = 0 })
      end)

      it("must be told the length", function()
        local asked = request()
        asked.body_length = nil
        assert.error_matches(function()
          http.request(asked)
        end, "'body_growing' goes with 'body_length'", 1, true)
      end)
    end)

    it("reports a file that cannot be read or written", function()
      local f, path = file_with("", "wb")
      fails("EBADF", "/echo", { method = "PUT", body_file = f, body_length = 5 })
      f:close()
      f = assert(io.open(path, "rb"))
      fails("EBADF", "/bytes?n=5", { response_file = f })
      f:close()
      os.remove(path)
      local full = assert(io.open("/dev/full", "wb"))
      fails("ENOSPC", "/bytes?n=500000", { response_file = full })
      fails("ENOSPC", "/bytes?n=5", { response_file = full })
      full:close()
      local pipe = assert(io.popen("cat", "r"))
      fails("ESPIPE", "/echo", { method = "PUT", body_file = pipe })
      pipe:close()
    end)

    it("writes a success to the file, a refusal to the body", function()
      local f, path = sink()
      local r = ok("/bytes?n=300000", { response_file = f })
      assert.is_nil(r.body)
      assert.equal(300000, r.size)
      assert.equal(("x"):rep(300000), contents(f))
      os.remove(path)
      f, path = sink()
      r = ok("/bytes?n=7&status=404", { response_file = f })
      assert.equal("xxxxxxx", r.body)
      assert.equal("", contents(f))
      os.remove(path)
    end)

    it("writes where the file stands, after what Lua wrote", function()
      local f, path = sink()
      f:write("head:")
      ok("/bytes?n=3", { response_file = f })
      f:write(":tail")
      assert.equal("head:xxx:tail", contents(f))
      os.remove(path)
    end)

    it("limits the body, announced or not, in memory and in a file", function()
      assert.equal(1000, ok("/bytes?n=1000", { max_bytes = 1000 }).size)
      fails("too_large", "/bytes?n=1001", { max_bytes = 1000 })
      assert.equal(3000, ok("/chunks?n=3", { max_bytes = 3000 }).size)
      fails("too_large", "/chunks?n=4", { max_bytes = 3000 })
      fails("too_large", raw .. "/endless", { max_bytes = 1000000 })
      fails("too_large", raw .. "/length-huge")
      fails("too_large", "/bytes?n=1", { max_bytes = 0 })
      assert.equal("", ok("/bytes?n=0", { max_bytes = 0 }).body)
      local f, path = sink()
      fails("too_large", raw .. "/endless", { max_bytes = 1000000, response_file = f })
      fails("too_large", "/bytes?status=500&n=2000000", { response_file = f })
      f:close()
      os.remove(path)
    end)

    it("limits the headers", function()
      fails("protocol", raw .. "/long-line")
      fails("too_large", raw .. "/many-lines")
    end)

    it("knows responses without a body", function()
      local r = ok("/bytes?n=77", { method = "HEAD", max_bytes = 5 })
      assert.equal("77", r.headers["content-length"])
      assert.equal("", r.body)
      assert.equal(204, ok(raw .. "/204").status)
      r = ok(raw .. "/304")
      assert.equal(304, r.status)
      assert.equal('"x"', r.headers.etag)
      assert.equal("", r.body)
    end)

    it("reads chunks, interim answers, trailers and a body up to the end", function()
      assert.equal(50000, #ok("/chunks?n=50").body)
      local r = ok(raw .. "/interim")
      assert.equal(200, r.status)
      assert.equal("yes", r.headers["x-b"])
      assert.is_nil(r.headers["x-a"])
      assert.is_nil(r.headers.link)
      r = ok(raw .. "/trailers")
      assert.equal("ok", r.body)
      assert.is_nil(r.headers["x-trailer"])
      assert.equal("chunked", r.headers["transfer-encoding"])
      assert.equal("until the end", ok(raw .. "/no-length").body)
      assert.equal("01234", ok(raw .. "/more-than-said").body)
      assert.equal("b", ok(raw .. "/lf").headers["x-a"])
      assert.equal("ok", ok(raw .. "/folded").body)
    end)

    it("joins repeated headers, trims values", function()
      local headers = ok("/twice").headers
      assert.equal("a=1, b=2", headers["set-cookie"])
      assert.equal("v", headers["x-case"])
      assert.equal("", headers["x-empty"])
    end)

    it("tells when the connection breaks, at any point", function()
      for _, name in ipairs {
        "cut-before", "cut-reset", "cut-status", "cut-head", "cut-body", "cut-chunk", "cut-last-chunk",
      } do
        fails("aborted", raw .. "/" .. name)
      end
    end)

    it("refuses what is no HTTP", function()
      fails("protocol", raw .. "/garbage")
      fails("protocol", raw .. "/no-colon")
      fails("protocol", raw .. "/length-text")
      fails("protocol", raw .. "/length-negative")
      local r, _, code = get(raw .. "/bad-chunk")
      assert.is_nil(r)
      assert.truthy(code == "aborted" or code == "protocol", code)
    end)

    it("reads a refusal that comes before the body is sent", function()
      local r, _, code = get(raw .. "/refuses", { method = "PUT", body = ("x"):rep(30000000) })
      assert.truthy(r and r.status == 413 or code == "aborted", code)
    end)

    it("lives through a connection that goes away while it sends, also under TLS", function()
      local body = ("x"):rep(20000000)
      for _ = 1, 3 do
        fails("aborted", "/drop", { method = "PUT", body = body })
        fails("aborted", tls .. "/drop", { method = "PUT", body = body, ca_file = dir .. "/cert.pem" })
      end
    end)

    it("keeps time: all of it, connecting, and silence", function()
      assert.truthy(fails("timeout", raw .. "/silent", { timeout = 0.1 }):find("timed out", 1, true))
      fails("timeout", raw .. "/stall", { timeout = 0.1 })
      fails("timeout", raw .. "/stall", { timeout = 60, stall_timeout = 1 })
      assert.equal(20, ok(raw .. "/drip", { timeout = 60 }).size)
    end)

    it("tells a refused connection and an unknown name", function()
      fails("connect", "http://127.0.0.1:1/")
      fails("dns", "http://" .. ("a"):rep(64) .. ".invalid/") -- too long a label: no query leaves this machine
    end)

    it("verifies certificates", function()
      fails("tls", tls .. "/bytes?n=1")
      assert.equal("x", ok(tls .. "/bytes?n=1", { ca_file = dir .. "/cert.pem" }).body)
      fails("tls", (tls:gsub("localhost", "127.0.0.1")) .. "/bytes?n=1", { ca_file = dir .. "/cert.pem" })
      fails("tls", tls .. "/bytes?n=1", { ca_file = dir .. "/none.pem" })
      fails("tls", (base:gsub("http:", "https:")) .. "/")
    end)

    it("follows redirects only when told, and only to http and https", function()
      assert.equal(302, ok("/redirect?to=/echo").status)
      local r = ok("/redirect?to=/bytes%3Fn%3D3", { follow = true })
      assert.equal("xxx", r.body)
      assert.equal(base .. "/bytes?n=3", r.url)
      assert.is_nil(r.headers.location)
      fails("redirects", "/loop", { follow = true })
      fails("protocol", "/redirect?to=file:///etc/passwd", { follow = true })
      fails("protocol", tls .. "/redirect?to=" .. base .. "/echo", { follow = true, ca_file = dir .. "/cert.pem" })
    end)

    it("uses a kept connection again, and survives its loss", function()
      local first = json.decode(ok("/echo").body).connection
      assert.equal(first, json.decode(ok("/echo").body).connection)
      assert.equal("ok", ok(raw .. "/fickle").body)
      assert.equal("ok", ok(raw .. "/fickle").body)
      assert.equal("ok", ok(raw .. "/fickle", { method = "PUT", body = "abc" }).body)
      local f, path = file_with("0123456789")
      f:seek("set", 3)
      assert.equal("ok", ok(raw .. "/fickle", { method = "PUT", body_file = f }).body)
      f:close()
      os.remove(path)
    end)

    it("shares nothing with a forked child", function()
      local unistd, wait = require "posix.unistd", require "posix.sys.wait"
      local m <close> = http.multi()
      local mine = json.decode(ok("/echo").body).connection
      local id = m:add { url = base .. "/together?of=2&key=fork" }
      assert.same({}, m:run { timeout = 0.01 })
      local pid = assert(unistd.fork())
      if pid == 0 then
        local good = pcall(function()
          assert(json.decode(ok("/echo").body).connection ~= mine)
          assert.error_matches(function() m:run() end, "belongs to another process")
          m:close()
          collectgarbage()
          collectgarbage()
          assert(http.live_handles() == 0)
        end)
        unistd._exit(good and 0 or 1)
      end
      local _, how, status = wait.wait(pid)
      assert.equal("exited 0", how .. " " .. status)
      assert.equal(mine, json.decode(ok("/echo").body).connection)
      release "fork"
      assert.equal(id, m:run({ timeout = 60 })[1].id)
    end)

    it("lets a forked child forget what is under way without ending it", function()
      local unistd, wait = require "posix.unistd", require "posix.sys.wait"
      local m = http.multi()
      local id = m:add { url = tls .. "/together?of=2&key=forget", ca_file = dir .. "/cert.pem" }
      m:run { timeout = 0.1 }
      local pid = assert(unistd.fork())
      if pid == 0 then
        m = nil -- the collector takes transfers before their multi, as the end of a Lua state does
        collectgarbage()
        collectgarbage()
        unistd._exit(http.live_handles())
      end
      local _, how, status = wait.wait(pid)
      assert.equal("exited 0", how .. " " .. status)
      release "forget"
      local done = m:run({ timeout = 60 })[1]
      m:close()
      assert.equal(id, done.id)
      assert.is_nil(done.error)
      assert.equal(200, done.status)
    end)

    it("bears a finaliser that closes the multi in use", function()
      for i = 1, 100 do
        local m = http.multi()
        setmetatable({}, { __gc = function() m:close() end })
        for _ = 1, i * 7 do
          local _ = {}
        end
        local good, message = pcall(function()
          for _ = 1, 5 do
            m:add { url = base .. "/echo" }
          end
          assert(#m:run { all = true } <= 5)
        end)
        assert(good or message:find("multi is closed", 1, true), message)
        m:close()
      end
    end)

    it("ignores the proxy variables of the environment", function()
      shell(([[http_proxy=http://127.0.0.1:1 all_proxy=http://127.0.0.1:1 LUA_CPATH='%s' lua5.4 -e '
        local r = assert(require("atelier.http").request { url = "%s/bytes?n=1" })
        assert(r.body == "x")']]):format(package.cpath, base))
    end)

    it("keeps credentials out of messages and out of the url", function()
      local message = fails("connect", "http://user:hunter2@127.0.0.1:1/path?token=hunter3#hunter4")
      assert.is_nil(message:find("hunter", 1, true), message)
      assert.is_nil(message:find("user", 1, true), message)
      assert.truthy(message:find("GET http://127.0.0.1:1/path: ", 1, true), message)
      for _, url in ipairs {
        "http://user:hunter2@/x", "http://u:hunter2@h:99999/", "hunter2 x://", "ftp://u:hunter2@h/",
      } do
        assert.is_nil(fails("bad_url", url):find("hunter", 1, true))
      end
      local r = ok((base:gsub("//", "//user:p%%40ss@")) .. "/echo")
      assert.equal("Basic dXNlcjpwQHNz", json.decode(r.body).headers.authorization)
      assert.equal(base .. "/echo", r.url)
    end)

    it("refuses URLs that are none", function()
      for _, url in ipairs {
        "", "/x", "x y", "file:///etc/passwd", "ftp://h/", "gopher://h/", "http://", "http://a b/", "http://h:x/",
        "http://h/\r\nX: y", "http://h/a b",
      } do
        local r, _, code = http.request { url = url, timeout = 5 }
        assert.is_nil(r)
        assert.equal("bad_url", code, url)
      end
    end)

    it("raises for headers that could smuggle", function()
      for _, value in ipairs { "a\r\nb: c", "a\nb", "a\rb", "a\0b", "\127" } do
        raises("control character", { headers = { x = value } })
      end
      for _, name in ipairs { "a b", "a:b", "a\r\nb", "", "a\0", "\u{e9}", "a(" } do
        raises("not allowed", { headers = { [name] = "x" } })
      end
      for _, name in ipairs { "Content-Length", "transfer-encoding", "Expect", "connection" } do
        raises("set by the client itself", { headers = { [name] = "1" } })
      end
      raises("given twice", { headers = { ["X-A"] = "1", ["x-a"] = "2" } })
      raises("must be strings", { headers = { x = 1 } })
      raises("must be strings", { headers = { "x" } })
      raises("must be a table", { headers = "x" })
    end)

    it("raises for wrong options", function()
      assert.error_matches(function() http.request() end, "table expected")
      assert.error_matches(function() http.request {} end, "'url' is missing")
      assert.error_matches(function() http.request { url = 1 } end, "must be a string")
      assert.error_matches(function() http.request { url = "http://h/\0x" } end, "contains a NUL")
      raises("unknown option 'retries'", { retries = 1 })
      for _, method in ipairs { "", "A B", "GET\r\n", "CONNECT", ("M"):rep(20), "G\u{e9}T" } do
        raises("not a method", { method = method })
      end
      raises("contains a NUL", { method = "GET\0" })
      for _, name in ipairs { "timeout", "connect_timeout", "stall_timeout" } do
        for _, value in ipairs { 0, -1, 86401, 0 / 0, math.huge } do raises("0.001 to 86400", { [name] = value }) end
        raises("must be a number", { [name] = "1" })
      end
      raises("must not be negative", { max_bytes = -1 })
      raises("must be an integer", { max_bytes = 1.5 })
      raises("must be an open file", { body_file = "x" })
      raises("exclude each other", { body = "x", body_file = io.stdin })
      raises("goes with 'body_file'", { body_length = 1 })
      raises("must not be negative", { body_length = -2, body_file = io.stdin })
      raises("have no body", { body = "x" })
      raises("have no body", { method = "HEAD", body = "" })
      raises("is for GET and HEAD", { method = "POST", follow = true })
      raises("must be a boolean", { follow = 1 })
      local f, path = sink()
      f:close()
      os.remove(path)
      raises("the file is closed", { response_file = f })
      raises("the file is closed", { body_file = f, method = "PUT" })
    end)
  end)

  describe("sigv4", function()
    local KEYS = {
      access_key = "AKIDEXAMPLE", secret_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region = "us-east-1",
    }

    local function keys(more)
      local t = {}
      for k, v in pairs(KEYS) do t[k] = v end
      for k, v in pairs(more or {}) do t[k] = v end
      return t
    end

    local function signed(path, more)
      more = more or {}
      more.sigv4 = more.sigv4 or keys()
      local r = ok("/s3/" .. path, more)
      if more.method == "HEAD" then return r end
      return json.decode(r.body), r
    end

    local function accepts(path, more)
      local verdict = signed(path, more)
      assert.is_true(verdict.ok, tostring(verdict.reason) .. "\n" .. tostring(verdict.canonical))
      return verdict
    end

    it("signs every method of safe keys so that an independent verifier agrees", function()
      accepts("bucket/generated/a-b_c.d~e/f.ate")
      accepts("bucket/key", { method = "DELETE" })
      assert.equal(200, signed("bucket/key", { method = "HEAD" }).status)
      assert.equal("UNSIGNED-PAYLOAD", accepts("bucket/key", { method = "PUT", body = "hello" }).stated)
      assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", accepts("bucket/key").stated)
      accepts("bucket/key", { method = "PUT", body = "" })
      accepts("bucket/key", { method = "POST" })
      accepts("b/", {})
      accepts("bucket/%E3%81%82%20%28x%29%25")
    end)

    it("signs queries, tokens, content types and a stated hash", function()
      accepts("bucket?delimiter=%2F&list-type=2&prefix=a%2Fb%20c&start-after=")
      accepts("bucket?uploads=")
      accepts("bucket?a=1&a=2&a-b=3&b=")
      local v = accepts("bucket/key", {
        method = "PUT", body = "hello", sigv4 = keys { token = "abc.def/+==", service = "s3", region = "eu-central-1" },
        headers = {
          ["Content-Type"] = "application/octet-stream", ["x-amz-meta-sha"] = "z y", ["Cache-Control"] = "no-store",
          ["x-amz-content-sha256"] = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
          ["If-None-Match"] = "*",
        },
      })
      assert.equal("eu-central-1", v.region)
      assert.equal("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", v.stated)
      local _, r = signed("bucket/key", {
        method = "PUT", body = "hell", headers = { ["x-amz-content-sha256"] = v.stated },
      })
      assert.equal(403, r.status)
    end)

    it("signs large uploads from a file, and keys with a colon", function()
      local f, path = file_with(("x"):rep(3000000))
      assert.equal(3000000, accepts("bucket/key", { method = "PUT", body_file = f }).body)
      f:close()
      os.remove(path)
      accepts("bucket/key", { sigv4 = { access_key = "test:tester", secret_key = "testing", region = "us-east-1" } })
    end)

    it("is refused by the verifier with a wrong secret", function()
      local verdict, r = signed("bucket/key", { sigv4 = keys { secret_key = "wrong" } })
      assert.equal(403, r.status)
      assert.equal("SignatureDoesNotMatch", verdict.reason)
    end)

    it("refuses paths and queries that libcurl would sign wrongly", function()
      for _, path in ipairs {
        "a(b)", "a!b", "a*b", "a'b", "a@b", "a:b", "a+b", "a=b", "a&b", "a,b", "a;b", "a$b", "%c3%a9", "%41",
        "%2F", "%7E", "%", "%4", "%zz", "\u{e9}", "a//b", "a/./b", "a/../b", "a/.", "a/..", "%2E%2E/x", "a#b", "a\\b", "a|b", "a^b", "a[b",
        "k?b=1&a=2", "k?a=2&a=1", "k?uploads",
        "k?a=b/c", "k?a=b c", "k?a=%c3", "k?a=b&", "k?&a=b", "k?=b", "k?a=b=c",
        "k?a+b=c", "k?a=%41", "k?a-b=1&a=1", "k?a=1#x", "k?", "k#",
      } do
        fails("bad_url", "/s3/" .. path, { sigv4 = keys() })
      end
      fails("bad_url", (base:gsub("//", "//user:pw@")) .. "/s3/x", { sigv4 = keys() })
    end)

    it("raises for headers that would break the signature", function()
      raises("set by the signature", { sigv4 = keys(), headers = { ["X-Amz-Date"] = "20260101T000000Z" } })
      raises("set by the signature", { sigv4 = keys(), headers = { authorization = "x" } })
      raises("set by the signature", { sigv4 = keys(), headers = { Host = "x" } })
      for _, name in ipairs { "x-amz-meta-a-b", "X-Amz-Meta-A1" } do
        raises("cannot be signed together", { sigv4 = keys(), headers = { ["x-amz-meta-a"] = "1", [name] = "1" } })
      end
      raises("cannot be signed together", { sigv4 = keys(), headers = { ["host-x"] = "1" } })
      for _, value in ipairs { "", " a", "a ", "a  b", "a\tb", "\u{e9}" } do
        raises("cannot be signed", { sigv4 = keys(), headers = { ["x-amz-meta-a"] = value } })
      end
    end)

    it("raises for wrong keys", function()
      raises("needs access_key", { sigv4 = {} })
      raises("unknown option 'key'", { sigv4 = { key = "x" } })
      raises("must be a table", { sigv4 = "x" })
      raises("region and service", { sigv4 = keys { region = "a:b" } })
      raises("region and service", { sigv4 = keys { service = "" } })
      raises("cannot be signed", { sigv4 = keys { token = "a\nb" } })
      raises("contains a NUL", { sigv4 = keys { secret_key = "a\0b" } })
      raises("cannot follow", { sigv4 = keys(), follow = true })
    end)

    it("keeps the secret out of messages", function()
      local message = fails("connect", "http://127.0.0.1:1/x", { sigv4 = keys { token = "tokentoken" } })
      for _, secret in ipairs { KEYS.secret_key, KEYS.access_key, "tokentoken" } do
        assert.is_nil(message:find(secret, 1, true))
      end
    end)
  end)

  describe("multi", function()
    local function all(m)
      local list = {}
      while m:count() > 0 do
        for _, r in ipairs(m:run { timeout = 60 }) do list[r.id] = r end
      end
      return list
    end

    it("has many requests under way at once", function()
      local m <close> = http.multi()
      local ids = {}
      -- The server answers none before all have come.
      for i = 1, 20 do ids[i] = assert(m:add { url = ("%s/together?of=20&key=many&n=%d"):format(base, i) }) end
      assert.equal("http.multi: 20 under way", tostring(m))
      local list = all(m)
      for i, id in ipairs(ids) do
        assert.equal(200, list[id].status, list[id].error)
        assert.equal(tostring(i), json.decode(list[id].body).n)
      end
      assert.same({}, m:run())
    end)

    it("limits the connections to one host and uses them again", function()
      local m <close> = http.multi { connections = 2 }
      local seen, n = {}, 0
      for _ = 1, 3 do
        for _ = 1, 5 do m:add { url = base .. "/echo", method = "PUT", body = ("x"):rep(100000) } end
        for _, r in ipairs(m:run { all = true }) do seen[json.decode(r.body).connection] = true end
      end
      for _ in pairs(seen) do n = n + 1 end
      assert.truthy(n <= 2, n)
    end)

    it("reports failures beside successes", function()
      local m <close> = http.multi()
      local good = m:add { url = base .. "/bytes?n=3" }
      local cut = m:add { url = raw .. "/cut-body" }
      local late = m:add { url = raw .. "/silent", timeout = 0.1 }
      local big = m:add { url = raw .. "/endless", max_bytes = 100000 }
      local none, message, code = m:add { url = "ftp://u:secret@h/" }
      assert.is_nil(none)
      assert.equal("bad_url", code)
      assert.is_nil(message:find "secret")
      local list = all(m)
      assert.equal("xxx", list[good].body)
      assert.equal("aborted", list[cut].code)
      assert.equal("timeout", list[late].code)
      assert.equal("too_large", list[big].code)
      assert.truthy(list[late].error:find("^request: GET http://127"))
    end)

    it("returns on time with nothing, and with the rest later", function()
      local m <close> = http.multi()
      m:add { url = raw .. "/silent" }
      local id = m:add { url = base .. "/together?of=2&key=late" }
      assert.same({}, m:run { timeout = 0 })
      assert.same({}, m:run { timeout = 0.05 })
      release "late"
      local list = m:run { timeout = 60 }
      assert.equal(id, list[1].id)
      assert.equal(1, m:count())
      assert.same({}, m:run { timeout = 0.01, all = true })
    end)

    it("cancels", function()
      local m <close> = http.multi()
      local id = m:add { url = raw .. "/silent" }
      m:run { timeout = 0.02 }
      assert.is_true(m:cancel(id))
      assert.is_false(m:cancel(id))
      assert.is_false(m:cancel(99))
      assert.equal(0, m:count())
      assert.equal("xx", (function() m:add { url = base .. "/bytes?n=2" } return m:run() end)()[1].body)
    end)

    it("streams bodies from and to files", function()
      local m <close> = http.multi()
      local jobs = {}
      for i = 1, 5 do
        local f, path = sink()
        local n = i * 100000
        jobs[m:add { url = base .. "/bytes?n=" .. n, response_file = f }] = { f = f, path = path, n = n }
      end
      local list = all(m)
      for id, job in pairs(jobs) do
        assert.equal(job.n, list[id].size)
        assert.equal(job.n, #contents(job.f))
        os.remove(job.path)
      end
    end)

    it("notices a file that Lua closed meanwhile", function()
      local m <close> = http.multi()
      local f, path = sink()
      m:add { url = base .. "/bytes?n=10", response_file = f }
      f:close()
      local g, gpath = file_with("0123456789")
      m:add { url = base .. "/echo", method = "PUT", body_file = g }
      g:close()
      for _, r in ipairs(m:run { all = true }) do assert.equal("EBADF", r.code) end
      os.remove(path)
      os.remove(gpath)
    end)

    it("keeps what it needs alive", function()
      local m <close> = http.multi()
      for i = 1, 5 do m:add { url = base .. "/echo", method = "PUT", body = ("%d"):format(i):rep(50000) } end
      collectgarbage()
      collectgarbage()
      for _, r in ipairs(m:run { all = true }) do assert.equal(50000, json.decode(r.body).length) end
    end)

    it("is driven by an event loop through fds, timeout and step", function()
      local m <close> = http.multi()
      assert.same({}, m:fds())
      m:add { url = base .. "/bytes?n=5" }
      m:add { url = base .. "/together?of=1&key=loop" }
      assert.equal("number", type(m:timeout()))
      local done, rounds = {}, 0
      while m:count() > 0 do
        rounds = rounds + 1
        assert.truthy(rounds < 1000000000)
        for _, w in ipairs(m:fds()) do
          assert.truthy(w.events:find "^r?w?$" and w.fd >= 0)
          for _, r in ipairs(m:step(w.fd, w.events)) do done[#done + 1] = r end
        end
        if (m:timeout() or 1) == 0 then
          for _, r in ipairs(m:step()) do done[#done + 1] = r end
        end
      end
      assert.equal(2, #done)
    end)

    it("closes once and for all, with requests under way", function()
      local m = http.multi()
      m:add { url = raw .. "/silent" }
      m:run { timeout = 0.01 }
      m:close()
      m:close()
      assert.equal("http.multi: closed", tostring(m))
      for _, name in ipairs { "add", "run", "step", "fds", "timeout", "cancel", "count" } do
        assert.error_matches(function() m[name](m, 1) end, "multi is closed")
      end
    end)

    it("is collected in any state", function()
      http.multi()
      http.multi():add { url = raw .. "/silent" }
      local m = http.multi()
      m:add { url = base .. "/bytes?n=5" }
      m:run { timeout = 0.01 }
      m = nil -- luacheck: ignore
    end)

    it("raises for wrong arguments", function()
      assert.error_matches(function() http.multi { connections = 0 } end, "1 to 1000")
      assert.error_matches(function() http.multi { size = 1 } end, "unknown option 'size'")
      local m <close> = http.multi()
      assert.error_matches(function() m:add() end, "table expected")
      assert.error_matches(function() m:add { url = base, x = 1 } end, "unknown option 'x'")
      assert.error_matches(function() m:run { timeout = -1 } end, "0 to 86400")
      assert.error_matches(function() m:run { wait = 1 } end, "unknown option 'wait'")
      assert.error_matches(function() m:step(-1) end, "not a file descriptor")
      assert.error_matches(function() m:step(1, "x") end, "must be 'r'")
      assert.error_matches(function() m:cancel("x") end, "number expected")
      assert.error_matches(function() m.add({}, {}) end, "http.multi expected")
    end)
  end)

  it("survives a hard-working collector", function()
    collectgarbage("generational")
    for _ = 1, 20 do ok("/bytes?n=50000") end
    collectgarbage("incremental", 0, 1000)
    local m <close> = http.multi()
    for _ = 1, 20 do m:add { url = base .. "/bytes?n=50000" } end
    for _, r in ipairs(m:run { all = true }) do assert.equal(50000, r.size) end
    collectgarbage("incremental", 200, 100)
  end)

  it("leaves nothing behind when memory runs out at any point", function()
    local oom = require "oom"
    local sigv4 = { access_key = "a", secret_key = "b", region = "r", token = "t" }
    local headers = { ["x-amz-meta-a"] = "1" }
    local url, bad = base .. "/bytes?n=10", raw .. "/cut-body"
    local r, steps
    steps = oom.run(function() r = assert(http.request { url = url, headers = headers, sigv4 = sigv4 }) end)
    assert.is_true(steps > 5)
    assert.equal(10, #r.body)
    oom.run(function() http.request { url = bad } end)
    oom.run(function()
      local m <close> = http.multi()
      m:add { url = url }
      m:add { url = url, method = "PUT", body = "x" }
      m:run { all = true }
    end)
  end)
end)
