-- atelier.httpd: listening, the loop and its tasks, responses that cannot be, draining. httpd_requests_spec and
-- httpd_responses_spec have what goes over the wire.
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
      local conn = assert(pg.connect(url, { yield = true, timeout = 60, cancel_timeout = 60 }))
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
