-- atelier.pg: pipelines, transactions, COPY and notices.
local support = require "spec.support.pg"

local connect, value, refused, raises, drive = support.connect, support.value, support.refused, support.raises, support.drive

describe("atelier.pg", function()
  local conn

  setup(function()
    support.open()
  end)

  before_each(function()
    conn = support.begin()
  end)

  after_each(support.finish)

  describe("pipeline", function()
    it("runs all in one transaction", function()
      assert(conn:prepare("one", "select $1::int as v"))
      local results = assert(conn:pipeline {
        { prepared = "one", { 7 } }, { "select txid_current() as x" },
        { "select txid_current() as x, $1::text as y", { "é" } },
      })
      assert.equal(3, #results)
      assert.equal(7, results[1][1].v)
      assert.equal(results[2][1].x, results[3][1].x)
      assert.equal("é", results[3][1].y)
      assert.equal("idle", conn:status())
    end)

    it("undoes all when one fails, and says which", function()
      local _, message, code, index = conn:pipeline {
        { "insert into t values (100)" }, { "select 1/0" }, { "insert into t values (101)" },
      }
      assert.equal("22012", code)
      assert.equal(2, index)
      assert.equal("pipeline: division by zero", message)
      assert.equal(0, value "(select count(*) from t)")
    end)

    it("gives rows alone where that is asked for", function()
      local results = assert(conn:pipeline({ { "select where $1::text is null", { "x" } }, { "select 1 as a, 'b' as b" },
        { "select 2 as a where false" } }, { bare = true }))
      assert.same({ true, { { a = 1, b = "b" } }, {} }, results)
      assert.same({ { a = 1 } }, conn:query("select 1 as a", nil, { bare = true }))
      assert.same({ "a" }, conn:query("select 1 as a").fields)
    end)

    it("says that the commit failed", function()
      assert(conn:exec [[create table if not exists p (a int primary key);
        create table if not exists d (a int references p (a) deferrable initially deferred)]])
      local _, _, code, index = conn:pipeline { { "insert into d values (1)" }, { "select 1" } }
      assert.equal("23503", code)
      assert.equal(3, index)
      assert.equal(1, value "1")
    end)

    it("sends and reads more than any buffer holds", function()
      local list, text = {}, ("x"):rep(100000)
      for i = 1, 200 do
        list[i] = { "select $1::text || $2::text as v", { text, tostring(i) } }
      end
      local results = assert(conn:pipeline(list))
      assert.equal(200, #results)
      assert.equal(text .. "200", results[200][1].v)
    end)

    it("cannot hold a COPY", function()
      refused("connection", conn:pipeline { { "copy t to stdout" } })
      assert.equal("lost", conn:status())
    end)

    -- The block for so many parameters is large enough for a collection of its own, and its finalisers.
    it("does not trust a list that a finaliser has changed while it was read", function()
      local params = {}
      for i = 1, 60000 do
        params[i] = i
      end
      local sql = "select 1 as ran"
      local function try(spoil, name)
        local list = { name and { prepared = name, params } or { sql, params } }
        collectgarbage("incremental", 104, 100, 63) -- in one step, and soon
        collectgarbage()
        setmetatable({}, { __gc = function()
          spoil(list)
        end })
        local ok, problem = pcall(conn.pipeline, conn, list)
        collectgarbage("incremental", 200, 100, 13)
        assert.is_false(ok)
        assert.matches("statement 1 was changed while it was read", problem, 1, true)
      end
      try(function(list) list[1] = false end)
      try(function(list) list[1] = nil end)
      try(function(list) list[1][1] = nil end)
      try(function(list) list[1][1] = "select 2" end)
      try(function(list) list[1][2] = 5 end)
      try(function(list) list[1].prepared = "other" end, "one")
      try(function(list) list[1][1] = "none" end, "one")
      assert.equal(1, value "1")
    end)

    it("raises for wrong arguments, before anything is sent", function()
      raises("table expected", conn.pipeline, conn)
      raises("1 to 10000", conn.pipeline, conn, {})
      raises("statement 1 is a string", conn.pipeline, conn, { "select 1" })
      raises("statement 2 needs SQL", conn.pipeline, conn, { { "select 1" }, {} })
      raises("statement 1 needs SQL", conn.pipeline, conn, { { prepared = 5 } })
      raises("NUL byte", conn.pipeline, conn, { { "select 1\0" } })
      raises("parameters of statement 1", conn.pipeline, conn, { { "select 1", 5 } })
      raises("parameter 1 is nil", conn.pipeline, conn, { { "insert into t values (5)" }, { "select $1", { n = 1 } } })
      raises("unknown option", conn.pipeline, conn, { { "select 1" } }, { x = 1 })
      assert.equal(0, value "(select count(*) from t)")
    end)
  end)

  describe("transaction", function()
    it("commits and gives the values", function()
      assert.is_true(conn:transaction(function(c)
        assert.equal(conn, c)
        assert.equal("transaction", c:status())
        assert(c:query "insert into t values (1, 'a')")
      end))
      assert.same({ 1, 2, nil, 4, n = 4 }, table.pack(conn:transaction(function() return 1, 2, nil, 4 end)))
      assert.equal(1, value "(select count(*) from t)")
      assert(conn:query "delete from t")
    end)

    it("rolls back on nil, false and an error", function()
      local function insert() assert(conn:query "insert into t values (2)") end
      assert.same({ nil, "why", "code", n = 3 }, table.pack(conn:transaction(function()
        insert()
        return nil, "why", "code"
      end)))
      assert.same({ false, n = 1 }, table.pack(conn:transaction(function()
        insert()
        return false
      end)))
      local thrown = {}
      local ok, got = pcall(conn.transaction, conn, function()
        insert()
        error(thrown)
      end)
      assert.is_false(ok)
      assert.equal(thrown, got)
      assert.equal("idle", conn:status())
      assert.equal(0, value "(select count(*) from t)")
    end)

    it("does not claim to have committed what had failed", function()
      refused("25P02", conn:transaction(function(c)
        c:query "select 1/0"
        assert.equal("failed", c:status())
        refused("25P02", c:query "select 1")
        return true
      end))
      refused("23503", conn:transaction(function(c) return c:query "insert into d values (9)" end))
      assert.equal("idle", conn:status())
    end)

    it("does not nest, and survives a lost connection", function()
      raises("in a transaction already", conn.transaction, conn, function(c) return c:transaction(print) end)
      assert.equal("idle", conn:status())
      refused("connection", conn:transaction(function(c) c:query "select pg_terminate_backend(pg_backend_pid())" end))
      local other = connect()
      raises("mine", other.transaction, other, function(c)
        c:query "select pg_terminate_backend(pg_backend_pid())"
        error "mine"
      end)
      raises("function expected", conn.transaction, conn)
    end)

    it("yields anywhere inside", function()
      local c = connect { yield = true }
      local turns, a, b = drive(coroutine.create(function()
        return c:transaction(function()
          assert(c:query "insert into t select 3 from pg_sleep(0.5)")
          return c:query("select pg_sleep(0.5), 5 as v")[1].v, "b"
        end)
      end), c)
      assert.is_true(turns >= 2) -- what the server answers at once needs no turn
      assert.same({ 5, "b" }, { a, b })
      assert.equal(1, value "(select count(*) from t)")
      assert(conn:query "delete from t")
      local _, ok, message = drive(coroutine.create(function()
        return pcall(c.transaction, c, function()
          assert(c:query "insert into t values (4)")
          error "inside"
        end)
      end), c)
      assert.is_false(ok)
      assert.matches("inside", message)
      assert.equal(0, value "(select count(*) from t)")
    end)
  end)

  describe("COPY", function()
    local function count() return value "(select count(*) from t)" end

    before_each(function() assert(conn:query "truncate t cascade") end)

    it("reads from a string, a list, a function and a file", function()
      assert.equal(2, assert(conn:copy_in("copy t from stdin", "1\ta\n2\tb\n")).affected)
      assert.equal(2, assert(conn:copy_in("copy t from stdin", { "3\tc\n4", "\td\n" })).affected)
      local i = 4
      assert.equal(5000, assert(conn:copy_in("copy t from stdin", function()
        i = i + 1
        return i <= 5004 and i .. "\t" .. ("x"):rep(200) .. "\n" or nil
      end)).affected)
      local file = assert(io.tmpfile())
      file:write("10001\ta\n10002\tb\n")
      file:seek("set")
      assert.equal(2, assert(conn:copy_in("copy t from stdin", file)).affected)
      file:close()
      assert.equal(5006, count())
      assert.equal(0, assert(conn:copy_in("copy t from stdin", "")).affected)
      assert.equal(0, assert(conn:copy_in("copy t from stdin", {})).affected)
    end)

    it("writes to a function and a file", function()
      assert(conn:copy_in("copy t from stdin", "1\ta\n2\t\\N\n"))
      local pieces = {}
      assert.equal(2, assert(conn:copy_out("copy (select * from t order by a) to stdout", function(piece)
        pieces[#pieces + 1] = piece
      end)).affected)
      assert.equal("1\ta\n2\t\\N\n", table.concat(pieces))
      local file = assert(io.tmpfile())
      assert(conn:copy_out("copy t to stdout", file))
      file:seek("set")
      assert.equal("1\ta\n2\t\\N\n", file:read "a")
      file:close()
      local n = 0
      local big = "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout"
      assert.equal(20000, assert(conn:copy_out(big, function(piece) n = n + #piece end)).affected)
      assert.equal(20000 * 1001, n)
    end)

    it("ends with the error of a source or sink, and the connection lives", function()
      raises("my source", conn.copy_in, conn, "copy t from stdin", function() error "my source" end)
      raises("gave a table", conn.copy_in, conn, "copy t from stdin", function() return {} end)
      raises("gave a number", conn.copy_in, conn, "copy t from stdin", { "1\ta\n", 5 })
      raises("my sink", conn.copy_out, conn, "copy (select generate_series(1, 100000)) to stdout",
        function() error "my sink" end)
      coroutine.wrap(function()
        raises("attempt to yield", conn.copy_out, conn, "copy (select 1) to stdout", coroutine.yield)
      end)()
      assert.equal(0, count())
      assert.equal("idle", conn:status())
    end)

    it("fails with the server's reason", function()
      refused("22P02", conn:copy_in("copy t from stdin", "x\ta\n"))
      refused("42P01", conn:copy_in("copy nope from stdin", "x"))
      refused("42P01", conn:copy_out("copy nope to stdout", print))
      local failing = "copy (select 1 / (5 - i) from generate_series(1, 10) i) to stdout"
      refused("22012", conn:copy_out(failing, function() end))
      raises("COPY statement needs", conn.copy_in, conn, "copy t to stdout", "")
      raises("COPY statement needs", conn.copy_out, conn, "copy t from stdin", print)
      assert.equal(1, #assert(conn:copy_in("select 1", "unused")))
      assert.equal(0, count())
    end)

    it("raises for wrong arguments", function()
      raises("string, function, list", conn.copy_in, conn, "copy t from stdin")
      raises("function or file", conn.copy_out, conn, "copy t to stdout", "x")
      local file = assert(io.tmpfile())
      file:close()
      raises("file is closed", conn.copy_in, conn, "copy t from stdin", file)
      raises("file is closed", conn.copy_out, conn, "copy t to stdout", file)
    end)

    it("keeps the connection to itself", function()
      local seen = {}
      assert(conn:copy_in("copy t from stdin", function()
        if #seen == 0 then
          seen[1] = select(2, pcall(conn.query, conn, "select 1"))
          seen[2] = select(2, pcall(conn.close, conn))
          return "1\ta\n"
        end
      end))
      assert.matches("busy", seen[1])
      assert.matches("busy", seen[2])
      assert.equal(1, count())
    end)

    it("yields, in constant memory", function()
      local c = connect { yield = true }
      local piece = ("x"):rep(100000)
      local i = 0
      local _, result = drive(coroutine.create(function()
        return c:copy_in("copy t from stdin", function()
          i = i + 1
          return i <= 200 and i .. "\t" .. piece .. "\n" or nil
        end)
      end), c)
      assert.equal(200, result.affected)
      local n = 0
      drive(coroutine.create(function()
        return c:copy_out("copy t to stdout", function(row) n = n + #row end)
      end), c)
      assert.is_true(n > 200 * 100000)
    end)

    it("is given up when its time is over", function()
      local function idle() return "" end
      local message = refused("timeout", conn:copy_in("copy t from stdin", idle, { timeout = 0.05 }))
      assert.matches("in time", message)
      refused("timeout", conn:copy_out("copy (select pg_sleep(60)) to stdout", print, { timeout = 0.05 }))
      local endless = "copy (select repeat('x', 10000) from generate_series(1, 100000000)) to stdout"
      refused("timeout", conn:copy_out(endless, function() end, { timeout = 0.1 }))
      assert.equal(0, count())
    end)
  end)

  describe("notices", function()
    local function notify(n)
      return ("do $$ begin for i in 1..%d loop raise warning 'n %%', i; end loop; end $$"):format(n)
    end

    it("go to the handler, or nowhere", function()
      local seen = {}
      assert(conn:query(notify(1)))
      conn:on_notice(function(notice) seen[#seen + 1] = notice end)
      assert(conn:query(notify(2)))
      assert.equal(2, #seen)
      assert.equal("n 2", seen[2].message)
      assert.equal("WARNING", seen[2].severity)
      assert(conn:query(notify(1000)))
      assert.equal(102, #seen)
      conn:on_notice()
      assert(conn:query(notify(1)))
      assert.equal(102, #seen)
      raises("function expected", conn.on_notice, conn, 5)
    end)

    it("pass on the handler's error, and keep the connection from it", function()
      conn:on_notice(function() error "from the handler" end)
      raises("from the handler", conn.query, conn, notify(2))
      conn:on_notice(function() conn:query "select 2" end)
      raises("busy", conn.query, conn, notify(1))
      conn:on_notice(function() conn:close() end)
      raises("busy", conn.query, conn, notify(1))
      conn:on_notice()
      assert.equal(1, value "1")
    end)
  end)
end)
