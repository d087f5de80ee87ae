-- atelier.pg: notifications, timeouts, cancels, lost connections, and coroutines.
local dirent = require "posix.dirent"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"
local support = require "spec.support.pg"

local connect, value, refused, raises = support.connect, support.value, support.refused, support.raises
local drive, in_a_storm, asleep = support.drive, support.in_a_storm, support.asleep

local PATIENT = { timeout = 60 }

describe("atelier.pg", function()
  local conn

  setup(function()
    support.open()
  end)

  before_each(function()
    conn = support.begin()
  end)

  after_each(support.finish)

  describe("notifications", function()
    it("come from other connections and from the own one", function()
      assert.is_true(conn:listen 'Odd "channel"')
      assert.same({}, assert(conn:notifications()))
      local other = connect()
      assert(other:query([[select pg_notify('Odd "channel"', 'é')]]))
      local list = assert(conn:notifications(60))
      assert.same({ { channel = 'Odd "channel"', payload = "é", pid = other:backend_pid() } }, list)
      assert(conn:query([[select pg_notify('Odd "channel"', i::text) from generate_series(1, 3) i]]))
      assert.equal(3, #assert(conn:notifications(60)))
      assert.is_true(conn:unlisten 'Odd "channel"')
      assert(other:query([[select pg_notify('Odd "channel"', 'x')]]))
      assert.same({}, assert(conn:notifications(0.02)))
    end)

    it("are awaited in a coroutine", function()
      local c = connect { yield = true }
      assert(c:listen "ch")
      local co = coroutine.create(function() return c:notifications(60) end)
      assert.is_true(coroutine.resume(co))
      assert.is_false(c:step())
      assert.is_true(c:timeout() > 5)
      assert(conn:query "notify ch, 'a'")
      assert.is_true(c:wait(60))
      assert.is_true(c:step())
      local ok, list = coroutine.resume(co)
      assert.is_true(ok)
      assert.equal("a", list[1].payload)
      local _, none = drive(coroutine.create(function() return c:notifications(0.02) end), c)
      assert.same({}, none)
    end)

    it("say when the connection is lost", function()
      assert(conn:listen "ch")
      connect():query("select pg_terminate_backend($1)", { conn:backend_pid() })
      refused("connection", conn:notifications(60))
    end)

    it("stop waiting when a signal comes", function()
      local list = in_a_storm(function() return conn:notifications(60) end)
      assert.same({}, list)
      assert.equal(1, value "1")
    end)

    it("take a channel of 1 to 63 bytes", function()
      raises("1 to 63", conn.listen, conn, "")
      raises("1 to 63", conn.listen, conn, ("x"):rep(64))
      raises("NUL", conn.unlisten, conn, "a\0")
      raises("timeout must be", conn.notifications, conn, -1)
      raises("unknown option", conn.notifications, conn, 0, { timeout = 1 })
      assert.is_true(conn:listen(("x"):rep(63)))
    end)
  end)

  describe("a timeout", function()
    it("cancels and leaves the connection usable", function()
      for _, call in ipairs {
        function() return conn:query("select pg_sleep(60)", nil, { timeout = 0.05 }) end,
        function() return conn:exec("select 1; select pg_sleep(60)", { timeout = 0.05 }) end,
        function()
          return conn:pipeline({ { "insert into t values (50)" }, { "select pg_sleep(60)" } }, { timeout = 0.05 })
        end,
      } do
        assert.matches("in time", refused("timeout", call()))
        assert.equal("57014", conn:last_error().sqlstate)
        assert.equal("idle", conn:status())
        assert.equal(1, value "1")
      end
      assert.equal(0, value "(select count(*) from t where a = 50)")
    end)

    it("bears signals meanwhile", function()
      for _ = 1, 3 do
        refused("timeout", in_a_storm(function()
          return conn:query("select pg_sleep(60)", nil, { timeout = 0.02 })
        end))
        assert.equal("idle", conn:status())
        assert.is_true(in_a_storm(function() return conn:cancel(PATIENT) end))
      end
    end)

    -- Stops a process of the server while f runs.
    local function stopped(pid, f)
      local signal = require "posix.signal"
      assert(signal.kill(pid, signal.SIGSTOP))
      local ok, message = pcall(f)
      assert(signal.kill(pid, signal.SIGCONT))
      assert(ok, message)
    end

    it("gives the connection up when its process does not answer", function()
      local c = connect { cancel_timeout = 0.1 }
      stopped(c:backend_pid(), function()
        assert.matches("given up", refused("timeout", c:query("select 1", nil, { timeout = 0.05 })))
      end)
      assert.equal("lost", c:status())
      refused("connection", c:query "select 1")
    end)

    it("gives the connection up when nobody takes the cancel request", function()
      local postmaster = assert(io.open(postgres.host() .. "/data/postmaster.pid")):read "n"
      local c = connect { cancel_timeout = 0.1 }
      local other = connect() -- used for nothing else: the request will be taken later, and end what runs then
      stopped(postmaster, function()
        assert.matches("given up", refused("timeout", c:query("select pg_sleep(30)", nil, { timeout = 0.05 })))
        refused("timeout", other:cancel { timeout = 0.05 })
      end)
      assert.equal("lost", c:status())
      assert.equal(1, value "1")
    end)

    it("is not claimed when the statement was done after all", function()
      -- The lock is freed only after the deadline, and the cancel then finds the statement at its end.
      local result, _, code = conn:query([[select pg_sleep(0.03)]], nil, { timeout = 0.02 })
      assert.is_true(result ~= nil or code == "timeout")
      assert.equal(1, value "1")
    end)

    it("does not reach the next statement", function()
      for i = 1, 30 do
        conn:query(("select pg_sleep(%g)"):format(0.002 + i / 20000), nil, { timeout = 0.003 })
        assert.equal(i, value("$1::int", { i }))
      end
    end)
  end)

  describe("cancel", function()
    it("ends what another coroutine waits for", function()
      local c = connect { yield = true }
      local co = coroutine.create(function() return c:query "select pg_sleep(60)" end)
      coroutine.resume(co)
      asleep(c)
      assert.is_true(c:cancel(PATIENT))
      local _, result, _, code = drive(co, c)
      assert.is_nil(result)
      assert.equal("57014", code)
      assert.equal("idle", c:status())
    end)

    it("does nothing when nothing runs", function()
      assert.is_true(conn:cancel(PATIENT))
      assert.equal(1, value "1")
      raises("unknown option", conn.cancel, conn, { x = 1 })
    end)

    it("fails on a lost connection", function()
      conn:query "select pg_terminate_backend(pg_backend_pid())"
      refused("connection", conn:cancel(PATIENT))
    end)
  end)

  describe("a lost connection", function()
    it("is told by its code, and for good", function()
      local message = refused("connection", conn:query "select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
      assert.equal("query: connection lost: terminating connection due to administrator command", message)
      assert.equal("57P01", conn:last_error().sqlstate)
      assert.equal("lost", conn:status())
      assert.equal(-1, conn:socket())
      assert.equal(0, conn:backend_pid())
      assert.is_nil(conn:parameter "TimeZone")
      refused("connection", conn:query "select 1")
      refused("connection", conn:pipeline { { "select 1" } })
      refused("connection", conn:transaction(print))
      refused("connection", conn:copy_in("copy t from stdin", ""))
      refused("connection", conn:notifications(1))
      assert.equal(1, pg.live_handles() + 1)
    end)

    it("is seen in a pipeline, a COPY and while idle", function()
      refused("connection", conn:pipeline {
        { "select 1" }, { "select pg_terminate_backend(pg_backend_pid())" }, { "select 2" },
      })
      local killer = connect()
      local c = connect()
      refused("connection", c:copy_in("copy t from stdin", function()
        killer:query("select pg_terminate_backend($1, 60000)", { c:backend_pid() })
        return ("1\tx\n"):rep(100000)
      end))
      c = connect()
      killer:query("select pg_terminate_backend($1, 60000)", { c:backend_pid() })
      refused("connection", c:query "select 1")
      c = connect()
      local endless = "copy (select repeat('x', 10000) from generate_series(1, 1000000)) to stdout"
      refused("connection", c:copy_out(endless, function()
        killer:query("select pg_terminate_backend($1, 60000)", { c:backend_pid() })
      end))
    end)

    it("is seen by a coroutine", function()
      local c = connect { yield = true }
      local co = coroutine.create(function() return c:query "select pg_sleep(60)" end)
      coroutine.resume(co)
      conn:query("select pg_terminate_backend($1)", { c:backend_pid() })
      local _, result, _, code = drive(co, c)
      assert.is_nil(result)
      assert.equal("connection", code)
    end)
  end)

  describe("in a coroutine", function()
    local c

    before_each(function() c = connect { yield = true } end)

    local function start(sql, options)
      local co = coroutine.create(function() return c:query(sql, nil, options) end)
      assert.is_true(coroutine.resume(co))
      assert.equal("suspended", coroutine.status(co))
      return co
    end

    -- Until the returned function is called nobody gets past HELD, however long this process may take to look.
    local HELD = "pg_advisory_xact_lock_shared(7)"
    local function hold()
      local holder = connect()
      assert(holder:query "select pg_advisory_lock(7)")
      return function() assert(holder:query "select pg_advisory_unlock(7)") end
    end

    it("COPY raises when its file is closed meanwhile", function()
      local file = assert(io.tmpfile())
      file:write(("1\ta\n"):rep(100000))
      file:seek "set"
      -- The table is held, so that the copy cannot be over before its file is closed.
      assert(conn:exec "begin; lock table t in access exclusive mode")
      local co = coroutine.create(function() return c:copy_in("copy t from stdin", file) end)
      assert.is_true(coroutine.resume(co))
      file:close()
      assert(conn:exec "rollback")
      raises("the source cannot be read: closed", drive, co, c)
      assert.equal("idle", c:status())
    end)

    it("every call yields the connection and gives what it gives when it waits", function()
      local let_go = hold()
      local co = start("select 7 as v from " .. HELD)
      assert.equal("busy", c:status())
      assert.matches("^r?w?$", c:events())
      let_go()
      local _, result = drive(co, c)
      assert.equal(7, result[1].v)
      local _, many = drive(coroutine.create(function()
        return c:pipeline { { "select 1 as a" }, { "select 2 as a" } }
      end), c)
      assert.equal(2, many[2][1].a)
      assert.is_nil(c:timeout())
    end)

    it("outside of one, the same connection waits", function()
      assert.equal(1, c:query("select 1 as v")[1].v)
    end)

    it("one call may choose for itself", function()
      local let_go = hold()
      local co = coroutine.create(function()
        local waited = c:query("select 1 as v", nil, { yield = false })[1].v
        local yielded = conn:query("select 2 as v from " .. HELD, nil, { yield = true })[1].v
        return waited + yielded
      end)
      local ok, which = coroutine.resume(co)
      assert.is_true(ok)
      assert.equal(conn, which)
      let_go()
      while coroutine.status(co) ~= "dead" do
        conn:wait(5)
        which = select(2, coroutine.resume(co))
      end
      assert.equal(3, which)
    end)

    it("resumes that come too early change nothing", function()
      local let_go = hold()
      local co = start("select 1 as v from " .. HELD)
      for _ = 1, 100 do
        assert.equal(c, select(2, assert(coroutine.resume(co))))
      end
      let_go()
      local _, result = drive(co, c)
      assert.equal(1, result[1].v)
    end)

    it("a second operation raises while the first is under way", function()
      local let_go = hold()
      local co = start("select 1 as v from " .. HELD)
      raises("busy", c.query, c, "select 2")
      local other = coroutine.create(function() return c:query "select 2" end)
      local ok, message = coroutine.resume(other)
      assert.is_false(ok)
      assert.matches("busy", message)
      let_go()
      local _, result = drive(co, c)
      assert.equal(1, result[1].v)
      assert.equal(2, c:query("select 2 as v")[1].v)
    end)

    it("a timeout is due when the loop comes round", function()
      local co = start("select pg_sleep(60)", { timeout = 0.03 })
      local _, result, _, code = drive(co, c)
      assert.is_nil(result)
      assert.equal("timeout", code)
      assert.equal("idle", c:status())
    end)

    it("close wakes the one that waits", function()
      local co = start "select pg_sleep(60)"
      c:close()
      local ok, result, message, code = coroutine.resume(co)
      assert.is_true(ok)
      assert.is_nil(result)
      assert.is_string(message)
      assert.equal("closed", code)
    end)

    it("one that is closed while it waits leaves the connection usable", function()
      local co = start "select pg_sleep(60)"
      coroutine.close(co)
      assert.equal(3, c:query("select 3 as v")[1].v)
      co = coroutine.create(function()
        return c:pipeline { { "insert into t values (77)" }, { "select pg_sleep(60)" } }
      end)
      coroutine.resume(co)
      coroutine.close(co)
      assert.equal(0, c:query("select count(*) as n from t where a = 77")[1].n)
    end)

    it("one that is closed while it is being cancelled leaves no request behind", function()
      -- The second request is the one that ends it, so that the first is under way for a while.
      local stubborn = [[do $$ declare asked int := 0; begin
        loop begin perform pg_sleep(60); exception when query_canceled then
          asked := asked + 1;
          if asked > 1 then raise; end if;
        end; end loop; end $$]]
      local function descriptors()
        local n = 0
        for _ in dirent.files "/proc/self/fd" do n = n + 1 end
        return n
      end
      local before = descriptors()
      for i = 1, 10 do
        local co = coroutine.create(function() return c:query(stubborn, nil, { timeout = 0.01 }) end)
        assert.is_true(coroutine.resume(co))
        while c:timeout() > 0 do c:wait(c:timeout()) end
        c:step() -- begins to cancel
        coroutine.close(co)
        assert.equal(i, c:query("select $1::int as v", { i })[1].v)
      end
      local deadline = os.time() + 60 -- the thread of the last request may still be about to close its own
      repeat until descriptors() <= before or os.time() > deadline
      assert(descriptors() <= before)
    end)

    it("one that will not go on can be forgotten, once its statement is done", function()
      local co = start "select pg_sleep(60)"
      assert.is_false(c:forget())
      assert.equal("busy", c:status())
      repeat -- a request that comes before the statement has begun does nothing
        assert.is_true(c:cancel(PATIENT))
        c:wait(10)
      until c:step()
      assert.equal("busy", c:status())
      assert.is_true(c:forget())
      assert.equal("idle", c:status())
      local _, result, _, code = coroutine.resume(co)
      assert.same({ nil, "closed" }, { result, code })
      assert.equal(3, c:query("select 3 as v")[1].v)
      assert.is_true(c:forget())
      assert(c:query "begin")
      assert.is_false(c:forget())
      assert(c:query "rollback")
    end)

    it("one that is collected while it waits leaves the connection usable", function()
      start "select pg_sleep(60)"
      collectgarbage()
      collectgarbage()
      assert.equal(3, c:query("select 3 as v")[1].v)
      coroutine.resume(coroutine.create(function() return c:copy_in("copy t from stdin", function() return "" end) end))
      collectgarbage()
      collectgarbage()
      assert.equal(4, c:query("select 4 as v")[1].v)
      coroutine.resume(coroutine.create(function() return c:notifications(100) end))
      collectgarbage()
      collectgarbage()
      assert.equal(5, c:query("select 5 as v")[1].v)
    end)

    it("one that dies inside a transaction leaves nothing of it", function()
      local function inside(wait)
        local co = coroutine.create(function()
          c:transaction(function()
            assert(c:query("insert into t values (88)", nil, { yield = false }))
            wait()
          end, { yield = false })
        end)
        assert(coroutine.resume(co))
        return co
      end
      local function count() return c:query("select count(*) as n from t where a = 88")[1].n end
      local co = inside(coroutine.yield)
      raises("another coroutine's transaction", c.query, c, "select 1")
      raises("another coroutine's transaction", c.transaction, c, print)
      coroutine.close(co)
      assert.equal(0, count())
      co = inside(function() c:query "select pg_sleep(60)" end)
      raises("busy", c.query, c, "select 1")
      coroutine.close(co)
      assert.equal(0, count())
      inside(coroutine.yield)
      collectgarbage()
      collectgarbage()
      assert.equal(0, count())
      assert.equal("idle", c:status())
      -- What the function itself resumes is inside too.
      assert.equal(1, conn:transaction(function()
        return coroutine.wrap(function() return conn:query("select 1 as v")[1].v end)()
      end))
    end)

    it("a stale resume after that changes nothing", function()
      local co = start "select pg_sleep(60)"
      asleep(c)
      assert.is_true(c:cancel(PATIENT))
      while not c:step() do c:wait(5) end
      local ok, result, _, code = coroutine.resume(co)
      assert.is_true(ok)
      assert.is_nil(result)
      assert.equal("57014", code)
      assert.is_false((coroutine.resume(co)))
      assert.equal(6, c:query("select 6 as v")[1].v)
    end)

    it("several connections go on at once", function()
      local list, done, let_go = {}, 0, hold()
      for i = 1, 5 do
        local own = connect { yield = true }
        list[i] = { conn = own, co = coroutine.create(function()
          return own:query(("select %d as v from %s"):format(i, HELD))[1].v
        end) }
        assert.equal(own, select(2, coroutine.resume(list[i].co)))
      end
      let_go()
      while done < 5 do
        for i, item in ipairs(list) do
          if coroutine.status(item.co) ~= "dead" then
            item.conn:wait(1)
            if item.conn:step() then
              local ok, v = coroutine.resume(item.co)
              assert.is_true(ok)
              assert.equal(i, v)
              done = done + 1
            end
          end
        end
      end
    end)
  end)
end)
