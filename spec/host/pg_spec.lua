-- atelier.pg: connections from first to last, and what holds for all of it. pg_values_spec has what goes in and comes out,
-- pg_statements_spec more than one statement at a time, pg_waiting_spec what takes long or comes by itself.
local oom = require "oom"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"
local support = require "spec.support.pg"

local connect, value, refused, raises = support.connect, support.value, support.refused, support.raises

describe("atelier.pg", function()
  local url, conn

  setup(function()
    url = support.open()
  end)

  before_each(function()
    conn = support.begin()
  end)

  after_each(support.finish)

  describe("connect", function()
    it("speaks UTF-8 and UTC, and says who it is", function()
      assert.equal("UTF8", conn:parameter "client_encoding")
      assert.equal("UTC", conn:parameter "TimeZone")
      assert.is_true(tonumber(conn:parameter "server_version_num") >= 130000)
      assert.is_nil(conn:parameter "no such thing")
      assert.is_true(conn:backend_pid() > 0)
      assert.is_true(conn:socket() >= 0)
      local named = connect { application_name = "the worker" }
      assert.equal("the worker", named:query("show application_name")[1].application_name)
      assert.equal("atelier", value "current_setting('application_name')")
    end)

    it("fails for a server, database or user that is not there", function()
      assert.matches("^connect: ", refused("connection", pg.connect "host=/nonexistent dbname=x"))
      refused("connection", pg.connect "host=127.0.0.1 port=1 dbname=x")
      assert.matches("no_such_db", refused("connection", pg.connect(url:gsub("dbname=%S+", "dbname=no_such_db"), nil)))
    end)

    it("never shows a password", function()
      for _, text in ipairs {
        "host=localhost password=se cret", "postgres://u:se@cret@/x", "postgres://u:p:cret/x", "host=x password='cret",
        "postgresql://u:cret@h:cret/", "postgresql://u:cret@[::1", "password=cret=%zz cret",
        "postgres://u:cr/et@h/cret",
      } do
        local message = refused("conninfo", pg.connect(text))
        assert.is_nil(message:find("cret", 1, true), message)
      end
      local message = refused("connection", pg.connect("host=/nonexistent user=u password=cret"))
      assert.is_nil(message:find("cret", 1, true), message)
    end)

    it("raises for wrong arguments", function()
      raises("string expected", pg.connect)
      raises("string expected", pg.connect, 5)
      raises("NUL byte", pg.connect, "host=a\0b")
      raises("unknown option 'timeuot'", pg.connect, url, { timeuot = 1 })
      for _, bad in ipairs { 0, -1, 0 / 0, 1 / 0, 1e9, 2592000 } do -- the last has more ms than an int holds
        raises("timeout must be", pg.connect, url, { timeout = bad })
        raises("timeout must be", pg.connect, url, { cancel_timeout = bad })
      end
      raises("must be a number", pg.connect, url, { timeout = "1" })
      raises("must be a boolean", pg.connect, url, { yield = 1 })
    end)

    it("gives up in time on a server that does not answer", function()
      local socket, unistd = require "posix.sys.socket", require "posix.unistd"
      local dir = postgres.host() .. "/silent"
      assert(require("posix.sys.stat").mkdir(dir))
      local fd = assert(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0))
      assert(socket.bind(fd, { family = socket.AF_UNIX, path = dir .. "/.s.PGSQL.5432" }))
      assert(socket.listen(fd, 5))
      local message = refused("timeout", pg.connect("user=x host=" .. dir, { timeout = 0.05 }))
      assert.equal("connect: no connection in time", message)
      unistd.close(fd)
      os.remove(dir .. "/.s.PGSQL.5432")
      os.remove(dir)
    end)

    it("yields in a coroutine", function()
      local seen
      local co = coroutine.create(function()
        return pg.connect(url, { yield = true })
      end)
      local ok, c = coroutine.resume(co)
      assert.is_true(ok)
      assert.equal("connecting", c:status())
      seen = c
      while coroutine.status(co) ~= "dead" do
        c:wait(5)
        ok, c = coroutine.resume(co)
      end
      assert.is_true(ok)
      assert.equal(seen, c)
      assert.equal("idle", c:status())
      c:close()
    end)

    it("drops a connection that nobody waits for", function()
      local co = coroutine.create(function()
        return pg.connect(url, { yield = true })
      end)
      coroutine.resume(co)
      assert.is_true(pg.live_handles() >= 2)
    end)
  end)

  describe("a closed connection", function()
    it("raises, but may be closed again and asked for its state", function()
      conn:close()
      conn:close()
      assert.equal("closed", conn:status())
      assert.equal("atelier.pg.conn: closed", tostring(conn))
      local calls = {
        query = { "select 1" }, exec = { "select 1" }, prepare = { "a", "b" }, execute = { "a" },
        pipeline = { { { "select 1" } } },
        transaction = { print }, copy_in = { "copy t from stdin", "" }, copy_out = { "copy t to stdout", print },
        listen = { "c" }, unlisten = { "c" }, notifications = { 0 }, on_notice = {}, socket = {}, events = {},
        timeout = {},
        step = {}, wait = { 0 }, cancel = {}, forget = {}, backend_pid = {}, parameter = { "x" }, last_error = {},
      }
      for name, arguments in pairs(calls) do
        raises("connection is closed", conn[name], conn, table.unpack(arguments))
      end
    end)

    it("is what __close leaves", function()
      local kept
      do
        local c <close> = connect()
        kept = c
        assert.equal("idle", kept:status())
      end
      assert.equal("closed", kept:status())
    end)

    it("hides its metatable", function()
      assert.is_false(getmetatable(conn))
      raises("atelier.pg.conn", conn.query, io.stdout, "select 1")
    end)
  end)

  describe("exec", function()
    it("runs many statements as one", function()
      local result = assert(conn:exec [[create temp table e (a int); insert into e values (1), (2);
        select a from e order by a]])
      assert.same({ { a = 1 }, { a = 2 } }, { result[1], result[2] })
      refused("22012", conn:exec "insert into e values (3); select 1/0; insert into e values (4)")
      assert.equal(2, value "(select count(*) from e)")
      assert.equal("", assert(conn:exec "").command)
    end)
  end)

  describe("prepared statements", function()
    it("run by name", function()
      assert.is_true(conn:prepare("add", "select $1::int + $2::int as sum"))
      assert.equal(5, conn:execute("add", { 2, 3 })[1].sum)
      assert.equal(pg.null, conn:execute("add", { 2, pg.null })[1].sum)
      refused("42P05", conn:prepare("add", "select 1"))
      refused("26000", conn:execute "nope")
      refused("42601", conn:prepare("bad", "selec"))
      refused("08P01", conn:execute("add", { 1 }))
    end)
  end)

  describe("memory", function()
    it("survives every allocation that fails", function()
      local stable = connect()
      assert(stable:prepare("p", "select $1::int as a, '[1,2]'::jsonb as j, '{x,\"y z\"}'::text[] as t, now() as n"))
      local steps = oom.run(function()
        local result = assert(stable:execute("p", { 5 }))
        assert(#result == 1)
      end)
      assert.is_true(steps > 10)
      oom.run(function()
        assert(stable:pipeline { { prepared = "p", { 1 } }, { "select $1::bytea as b", { pg.bytea "abc" } } })
      end)
      oom.run(function()
        assert(stable:copy_out("copy (select generate_series(1, 3)) to stdout", function() end))
      end)
      oom.run(function()
        assert(stable:copy_in("copy t from stdin", { "" }))
      end)
      oom.run(function()
        pg.array { 1, "a", { 1, pg.null }, pg.bytea "x" }
        stable:query "select nope"
        stable:last_error()
      end)
      oom.run(function()
        stable:query "notify x"
        assert(stable:notifications())
        assert(stable:listen "x")
      end)
      oom.run(function()
        if stable:status() ~= "idle" then
          assert(stable:exec "rollback")
        end
        assert(stable:transaction(function() return stable:query "select 1" end))
      end)
      oom.run(function()
        local fresh <close> = assert(pg.connect(url, { application_name = "x" }))
        assert(fresh:status() == "idle")
      end)
      assert.equal(1, stable:query("select 1 as v")[1].v)
    end)

    it("survives every allocation that fails in a coroutine", function()
      local c = connect { yield = true }
      oom.run(function()
        local co = coroutine.create(function()
          return assert(c:query("select pg_sleep(0.001), $1::text as v", { "x" }))
        end)
        local ok, got = coroutine.resume(co)
        while coroutine.status(co) ~= "dead" do
          c:wait(5)
          ok, got = coroutine.resume(co)
        end
        if not ok then error(got, 0) end
      end)
      assert.equal(1, c:query("select 1 as v")[1].v)
    end)

    it("stands a collector that never rests", function()
      local pause, step = collectgarbage("setpause", 0), collectgarbage("setstepmul", 1000)
      for i = 1, 20 do
        local result = assert(conn:query([[select i, '{"a":[1,2]}'::jsonb as j, array['a', 'b'] as t, now() as n
          from generate_series(1, 20) i]]))
        assert.equal(20, result[20].i)
        assert.same({ a = { 1, 2 } }, result[20].j)
        assert.equal(i, value("$1::int", { i }))
      end
      collectgarbage("setpause", pause)
      collectgarbage("setstepmul", step)
    end)

    it("drops what is unreachable in any state", function()
      for _ = 1, 3 do
        assert(pg.connect(url))
        local c = assert(pg.connect(url, { yield = true }))
        coroutine.resume(coroutine.create(function() return c:query "select pg_sleep(60)" end))
        c = assert(pg.connect(url))
        c:exec "begin"
        c:exec "select nope"
        pg.connect "host=/nonexistent"
      end
      collectgarbage()
      collectgarbage()
      assert.equal(1, pg.live_handles())
    end)
  end)

  describe("a finaliser that uses and closes the connection", function()
    -- Calls `use` with a fresh connection and such a finaliser, at many states of the collector.
    local function torture(use)
      for i = 1, 40 do
        local c = assert(pg.connect(url))
        setmetatable({}, { __gc = function()
          pcall(c.query, c, "select 1")
          c:close()
        end })
        for _ = 1, i * 7 do
          local _ = {}
        end
        local ok, message = pcall(use, c)
        assert(ok or message:find("connection is closed", 1, true), message)
        c:close()
      end
    end

    it("does not spoil a result", function()
      torture(function(c)
        for _ = 1, 5 do
          local rows = assert(c:query "select g, repeat('x', 50) as t from generate_series(1, 300) g")
          assert.equal(300, #rows)
          assert.equal(300, rows[300].g)
        end
      end)
    end)

    it("does not spoil an error or a notice", function()
      torture(function(c)
        refused("22012", c:query "select 1/0")
        for _ = 1, 50 do
          local failure = c:last_error()
          assert(failure == nil or failure.sqlstate == "22012")
        end
      end)
      torture(function(c)
        c:on_notice(function(notice)
          assert.matches("^x %d+$", notice.message)
        end)
        for _ = 1, 5 do
          c:exec "do $$ begin for i in 1..50 loop raise notice 'x %', i; end loop; end $$"
        end
      end)
    end)
  end)

  describe("a forked child", function()
    it("neither uses nor ends the connection of its parent", function()
      local unistd, wait = require "posix.unistd", require "posix.sys.wait"
      local child = unistd.fork()
      if child == 0 then
        local ok, result, _, code = pcall(conn.query, conn, "select 1")
        conn:close()
        unistd._exit(ok and result == nil and code == "connection" and 0 or 1)
      end
      local _, how, status = wait.wait(child)
      assert.same({ "exited", 0 }, { how, status })
      assert.equal(1, value "1")
    end)
  end)

  it("keeps no global", function()
    assert.is_nil(rawget(_G, "pg"))
    assert.is_nil(rawget(_G, "atelier"))
  end)
end)
