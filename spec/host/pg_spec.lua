local oom = require "oom"
local pg = require "atelier.pg"
local support = require "spec.support.postgres"

describe("atelier.pg", function()
  local url, conn
  local opened = {}

  -- Patient beyond what a slow machine needs.
  local function connect(options)
    local patient = { timeout = 120, cancel_timeout = 60 }
    for name, option in pairs(options or {}) do patient[name] = option end
    local c = assert(pg.connect(url, patient))
    opened[#opened + 1] = c
    return c
  end

  local function value(sql, params)
    return assert(conn:query("select " .. sql .. " as v", params))[1].v
  end

  -- Asserts the triple and gives the message.
  local function refused(code, result, message, got)
    assert.is_nil(result)
    assert.equal(code, got)
    assert.is_string(message)
    return message
  end

  local function raises(text, f, ...)
    local ok, message = pcall(f, ...)
    assert.is_false(ok)
    assert.matches(text, message, 1, true)
  end

  -- The host's loop in small: waits on each connection in turn and resumes its coroutine.
  local function drive(co, c)
    local turns = 0
    local result = table.pack(coroutine.resume(co))
    while coroutine.status(co) ~= "dead" do
      assert.equal(c, result[2])
      c:wait(c:timeout())
      turns = turns + 1
      result = table.pack(coroutine.resume(co, "dropped", turns))
    end
    assert(result[1], result[2])
    return turns, table.unpack(result, 2, result.n)
  end

  -- Calls f while a child sends one signal after the other.
  local function in_a_storm(f)
    local signal, unistd, wait = require "posix.signal", require "posix.unistd", require "posix.sys.wait"
    local parent = unistd.getpid()
    local old = signal.signal(signal.SIGUSR1, function() end)
    local child = unistd.fork()
    if child == 0 then
      while signal.kill(parent, signal.SIGUSR1) do end
      unistd._exit(0)
    end
    local results = table.pack(f())
    signal.kill(child, signal.SIGKILL)
    wait.wait(child)
    signal.signal(signal.SIGUSR1, old)
    return table.unpack(results, 1, results.n)
  end

  -- Waits until the server sleeps for the connection: a cancel before that would do nothing.
  local function asleep(c)
    local sql = "select count(*) as n from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'"
    while assert(conn:query(sql, { c:backend_pid() }))[1].n == 0 do
      c:step()
    end
  end

  setup(function()
    url = support.database("pg")
    support.run(url, "create table t (a int primary key, b text)")
  end)

  before_each(function()
    conn = connect()
  end)

  after_each(function()
    for i = #opened, 1, -1 do
      opened[i]:close()
      opened[i] = nil
    end
    conn = nil
    collectgarbage()
    collectgarbage()
    assert.equal(0, pg.live_handles())
  end)

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
      local dir = support.host() .. "/silent"
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
        step = {}, wait = { 0 }, cancel = {}, backend_pid = {}, parameter = { "x" }, last_error = {},
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

  describe("types", function()
    it("are those of Lua where there is one", function()
      assert.equal(1, value "1::int2")
      assert.equal("integer", math.type(value "1::int4"))
      assert.equal(math.maxinteger, value "9223372036854775807::int8")
      assert.equal(math.mininteger, value "(-9223372036854775808)::int8")
      assert.equal(4294967295, value "4294967295::oid")
      assert.equal(0.1, value "0.1::float8")
      assert.equal("float", math.type(value "1::float4"))
      assert.equal(1 / 0, value "'infinity'::float8")
      assert.equal(-1 / 0, value "'-infinity'::float8")
      assert.is_true(value "'nan'::float8" ~= value "'nan'::float8")
      assert.equal("12345678901234567890.10", value "12345678901234567890.10::numeric")
      assert.is_true(value "true")
      assert.is_false(value "false")
      assert.equal("é\n", value "E'é\\n'::text")
      assert.equal("", value "''::text")
      assert.equal("a", value "'a'::varchar")
      assert.equal("ab  ", value "'ab'::char(4)")
      assert.equal("n", value "'n'::name")
      assert.equal("10.0.0.1", value "'10.0.0.1'::inet")
      assert.equal("2026-11-22", value "'2026-11-22'::date")
      assert.equal("6f2c1e9a-0000-4000-8000-00000000000a", value "'6F2C1E9A-0000-4000-8000-00000000000A'::uuid")
      assert.equal("\0\1\255\\x", value "'\\x0001ff5c78'::bytea")
      assert.equal("", value "''::bytea")
      assert.equal("", value "pg_sleep(0)")
    end)

    it("keep NULL apart from nil", function()
      assert.equal(pg.null, value "null::int")
      assert.is_not_nil(pg.null)
      assert.equal(require("atelier.json").null, pg.null)
    end)

    it("give times in UTC, whatever the session's zone", function()
      local cases = {
        { "'2026-11-22 10:11:12+00'", "2026-11-22T10:11:12Z" },
        { "'2026-11-22 10:11:12.5+00'", "2026-11-22T10:11:12.5Z" },
        { "'2026-12-31 23:30:00.000001-01'", "2027-01-01T00:30:00.000001Z" },
        { "'2024-02-29 00:00:00+05:30'", "2024-02-28T18:30:00Z" },
        { "'1999-12-31 23:59:59.999999+00'", "1999-12-31T23:59:59.999999Z" },
        { "'0099-03-01 00:00:00+00'", "0099-03-01T00:00:00Z" },
        { "'1900-03-01 00:00:00+14'", "1900-02-28T10:00:00Z" },
      }
      for _, zone in ipairs { "UTC", "Asia/Tokyo", "America/St_Johns", "Africa/Monrovia" } do
        assert(conn:query("select set_config('timezone', $1, false)", { zone }))
        for _, case in ipairs(cases) do
          assert.equal(case[2], value(case[1] .. "::timestamptz"), zone)
        end
      end
      assert.equal("infinity", value "'infinity'::timestamptz")
      assert.equal("-infinity", value "'-infinity'::timestamptz")
      assert.matches(" BC$", value "'0044-03-15 12:00:00+00 BC'::timestamptz")
      assert.equal("2026-11-22 10:11:12", value "'2026-11-22 10:11:12'::timestamp")
    end)

    it("agree with the server on 400 years of odd offsets", function()
      assert(conn:query "set timezone to '<x>-11:37'")
      local rows = assert(conn:query [[select t, to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as expected
        from generate_series('1800-01-01'::timestamptz, '2200-01-01', '97 days 13:59:47') t]])
      assert.is_true(#rows > 1000)
      for _, row in ipairs(rows) do
        assert.equal(row.expected, row.t)
      end
    end)

    it("decode JSON, and leave what the strict decoder refuses as text", function()
      assert.same({ a = { 1, { b = pg.null } } }, value [['{"a": [1, {"b": null}]}'::jsonb]])
      assert.equal(pg.null, value "'null'::jsonb")
      assert.equal("x", value [['"x"'::json]])
      assert.is_false(value "'false'::json")
      local result = assert(conn:query [[select 1 as id, '{"a":1,"a":2}'::json as j
        union all select 2, '[1]'::json order by 1]])
      assert.equal('{"a":1,"a":2}', result[1].j)
      assert.same({ 1 }, result[2].j)
      assert.equal(1, #result.undecoded)
      assert.equal(1, result.undecoded[1].row)
      assert.equal("j", result.undecoded[1].field)
      assert.is_string(result.undecoded[1].message)
      assert.is_nil(conn:query("select 1").undecoded)
    end)

    it("share equal JSON when told to", function()
      local sql = [[select j from (values (1, '[1]'::jsonb), (2, '[1]'), (3, '[2]'), (4, null), (5, '[2]')) v(i, j)
        order by i]]
      local apart = assert(conn:query(sql))
      assert.are_not.equal(apart[1].j, apart[2].j)
      local shared = assert(conn:query(sql, nil, { share = true }))
      assert.equal(shared[1].j, shared[2].j)
      assert.same({ { 1 }, { 1 }, { 2 }, pg.null, { 2 } },
        { shared[1].j, shared[2].j, shared[3].j, shared[4].j, shared[5].j })
    end)

    it("give arrays of any dimension as lists", function()
      assert.same({}, value "'{}'::int[]")
      assert.same({ 1, pg.null, 3 }, value "'{1,NULL,3}'::int8[]")
      assert.same({ { 1, 2 }, { 3, 4 } }, value "'{{1,2},{3,4}}'::int[]")
      assert.same({ 7, 8 }, value "'[5:6]={7,8}'::int[]")
      assert.same({ "a", "", "NULL", pg.null, 'q"\\,{}', " b " },
        value [[array['a', '', 'NULL', null, 'q"\,{}', ' b ']::text[] ]])
      assert.same({ true, false }, value "'{t,f}'::bool[]")
      assert.same({ 0.5 }, value "'{0.5}'::float8[]")
      assert.same({ "\0\255" }, value [[array['\x00ff'::bytea] ]])
      assert.same({ { a = { 1 } }, {} }, value [[array['{"a":[1]}', '{}']::jsonb[] ]])
      assert.same({ "2026-01-01T00:00:00Z" }, value "array['2026-01-01 00:00:00+00'::timestamptz]")
      assert.same({ "1.50" }, value "'{1.50}'::numeric[]")
      assert.same({ "6f2c1e9a-0000-4000-8000-00000000000a" },
        value "array['6f2c1e9a-0000-4000-8000-00000000000a'::uuid]")
    end)

    it("read bytea in the older form too", function()
      assert(conn:query "set bytea_output to escape")
      assert.equal("a\\\0\255b", value "'\\x615c00ff62'::bytea")
    end)
  end)

  describe("parameters", function()
    it("are inferred by the server", function()
      assert.equal(42, value("$1::int + 1", { 41 }))
      assert.equal("x", value("$1::text", { "x" }))
      assert.equal(0.1, value("$1::float8", { 0.1 }))
      assert.equal(1 / 3, value("$1::float8", { 1 / 3 }))
      assert.equal("0.1", value("$1::numeric", { 0.1 }))
      assert.equal(2 ^ 53, value("$1::float8", { 2 ^ 53 }))
      assert.equal(1 / 0, value("$1::float8", { 1 / 0 }))
      assert.is_true(value("$1::float8 = 'nan'", { 0 / 0 }))
      assert.equal(math.mininteger, value("$1::int8", { math.mininteger }))
      assert.is_false(value("$1::bool", { false }))
      assert.equal(pg.null, value("$1::text", { pg.null }))
      assert.equal("", value("$1::text", { "" }))
      assert.equal(2, value("num_nulls($1::text, $2::text)", { pg.null, pg.null }))
      assert.equal(1, value("num_nulls($1::text, $2::text, $3::text)", { "a", pg.null, "b", n = 3 }))
    end)

    it("carry bytes, JSON and arrays by what says so", function()
      local bytes = ("\0\1\254\255"):rep(1000)
      assert.equal(bytes, value("$1::bytea", { pg.bytea(bytes) }))
      assert.equal("", value("$1::bytea", { pg.bytea "" }))
      assert.same({ a = { 1, pg.null } }, value("$1::jsonb", { pg.json { a = { 1, pg.null } } }))
      assert.equal(pg.null, value("$1::jsonb", { pg.json(pg.null) }))
      local text = { "a", "", "NULL", pg.null, 'q"\\,{} ', "é" }
      assert.same(text, value("$1::text[]", { pg.array(text) }))
      assert.same({}, value("$1::int[]", { pg.array {} }))
      assert.same({ 1, pg.null }, value("$1::int[]", { pg.array { 1, pg.null, n = 2 } }))
      assert.same({ { 1.5, 2 }, { 3, 4 } }, value("$1::float8[]", { pg.array { { 1.5, 2 }, { 3, 4 } } }))
      assert.same({ true, false }, value("$1::bool[]", { pg.array { true, false } }))
      assert.same({ "\0\255", "" }, value("$1::bytea[]", { pg.array { pg.bytea "\0\255", pg.bytea "" } }))
      assert.same({ { a = 1 } }, value("$1::jsonb[]", { pg.array { pg.json { a = 1 } } }))
      assert.matches("^atelier.pg.value: bytea, 3 bytes$", tostring(pg.bytea "abc"))
      local many = {}
      for i = 1, 5000 do
        many[i] = ("%05d"):format(i)
      end
      assert.same(many, value("$1::text[]", { pg.array(many) }))
    end)

    it("cannot hold a NUL byte as text", function()
      assert.matches("parameter 2", refused("22021", conn:query("select $1::text, $2::text", { "a", "b\0c" })))
      refused("22021", conn:execute("x", { "\0" }))
      refused("22021", conn:query("select $1::text[]", { pg.array { "a\0b" } }))
      local _, message, code, index = conn:pipeline { { "select 1" }, { "select $1::text", { "\0" } } }
      assert.equal("22021", code)
      assert.equal(2, index)
      assert.is_string(message)
      assert.equal("idle", conn:status())
    end)

    it("raise when they are none", function()
      raises("parameter 2 is nil", conn.query, conn, "select 1", { 1, nil, 3, n = 3 })
      raises("parameter 1 is a table", conn.query, conn, "select 1", { {} })
      raises("parameter 1 is a function", conn.query, conn, "select 1", { print })
      raises("table of parameters", conn.query, conn, "select 1", 5)
      raises("'n' must be a count", conn.query, conn, "select 1", { n = -1 })
      raises("'n' must be a count", conn.query, conn, "select 1", { n = "x" })
      raises("at most 65535", conn.query, conn, "select 1", { n = 65536 })
      raises("an array holds no function", pg.array, { print })
      raises("element 2 is nil", pg.array, { 1, nil, n = 2 })
      raises("at most 6 dimensions", pg.array, { { { { { { { 1 } } } } } } })
      local circle = {}
      circle[1] = circle
      raises("at most 6 dimensions", pg.array, circle)
      raises("string expected", pg.bytea, 5)
      raises("string expected", pg.bytea)
      raises("table expected", pg.array, "x")
      raises("value expected", pg.json)
      local none, message, code = pg.json(0 / 0)
      assert.is_nil(none)
      assert.is_string(message)
      assert.equal("json", code)
      assert.equal("idle", conn:status())
    end)
  end)

  describe("query", function()
    it("gives rows, fields, the count and the command", function()
      local result = assert(conn:query "select i, i * 2 as double from generate_series(1, 3) i")
      assert.equal(3, #result)
      assert.same({ "i", "double" }, result.fields)
      assert.same({ i = 3, double = 6 }, result[3])
      assert.equal(3, result.affected)
      assert.equal("SELECT 3", result.command)
      result = assert(conn:query "create temp table q as select 1 as a")
      assert.equal(1, result.affected)
      result = assert(conn:query "update q set a = 2 where false")
      assert.equal(0, result.affected)
      assert.equal("UPDATE 0", result.command)
      assert.same({}, result.fields)
      assert.equal(0, #assert(conn:query ""))
      assert.equal(0, #assert(conn:query "select 1 where false"))
    end)

    it("takes as many columns and rows as the server gives", function()
      local columns = {}
      for i = 1, 1600 do
        columns[i] = i .. " as c" .. i
      end
      local result = assert(conn:query("select " .. table.concat(columns, ",")))
      assert.equal(1600, result[1].c1600)
      result = assert(conn:query "select i, repeat('x', 100) as x from generate_series(1, 20000) i")
      assert.equal(20000, #result)
      assert.equal(20000, result[20000].i)
    end)

    it("gives the server's reason and SQLSTATE", function()
      local cases = {
        { "42601", "selec" }, { "42703", "select nope" }, { "42P01", "select 1 from nope" }, { "22012", "select 1/0" },
        { "22P02", "select 'x'::int" }, { "42601", "select 1; select 2" }, { "08P01", "select $1::int" },
        { "23505", "insert into t values (1), (1)" }, { "23502", "insert into t values (null)" },
        { "42501", "alter system set fsync to off", role = true }, { "25001", "vacuum", transaction = true },
        { "P0001", "do $$ begin raise 'own' using hint = 'try', detail = 'why'; end $$" },
        { "57014", "select 1", timeout = true },
      }
      for _, case in ipairs(cases) do
        if case.role then
          assert(conn:exec "create role somebody; set role somebody")
        elseif case.transaction then
          assert(conn:exec "reset role; begin")
        end
        if case.timeout then
          assert(conn:exec "set statement_timeout to 50")
          refused("57014", conn:query "select pg_sleep(60)")
        else
          refused(case[1], conn:query(case[2]))
        end
        if case.transaction then
          assert(conn:exec "rollback")
        end
        assert.equal("idle", conn:status())
      end
    end)

    it("keeps the details of the last failure", function()
      assert.is_nil(conn:last_error())
      assert.is_nil(conn:query [[do $$ begin
        raise 'own %', 1 using hint = 'try', detail = 'why', errcode = 'ATE01'; end $$]])
      local failure = conn:last_error()
      assert.equal("ATE01", failure.code)
      assert.equal("query: own 1", failure.message)
      assert.equal("ATE01", failure.sqlstate)
      assert.equal("ERROR", failure.severity)
      assert.equal("try", failure.hint)
      assert.equal("why", failure.detail)
      assert.is_string(failure.context)
      assert.is_nil(conn:query("insert into t values (null)"))
      failure = conn:last_error()
      assert.equal("t", failure.table)
      assert.equal("a", failure.column)
      assert.equal("public", failure.schema)
      assert(conn:query "select 1")
      assert.is_nil(conn:last_error())
    end)

    it("raises for wrong arguments", function()
      raises("string expected", conn.query, conn)
      raises("NUL byte", conn.query, conn, "select 1\0")
      raises("unknown option 'tiemout'", conn.query, conn, "select 1", nil, { tiemout = 1 })
      raises("timeout must be", conn.query, conn, "select 1", nil, { timeout = 0 })
      raises("COPY statement needs", conn.query, conn, "copy t to stdout")
      raises("COPY statement needs", conn.query, conn, "copy t from stdin")
      raises("COPY statement needs", conn.exec, conn, "copy t from stdin")
      raises("COPY statement needs", conn.exec, conn, "copy (select generate_series(1, 100000)) to stdout")
      assert.equal(1, value "1")
    end)

    it("treats a long message as text, not as a format", function()
      local message = refused("P0001", conn:query("do $$ begin raise '%', repeat('%s%n', 2000); end $$"))
      assert.matches("%s%n", message, 1, true)
      assert.is_true(#message < 1100)
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
        assert.is_true(in_a_storm(function() return conn:cancel() end))
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
      local postmaster = assert(io.open(support.host() .. "/data/postmaster.pid")):read "n"
      local c = connect { cancel_timeout = 0.1 }
      stopped(postmaster, function()
        assert.matches("given up", refused("timeout", c:query("select pg_sleep(30)", nil, { timeout = 0.05 })))
        refused("timeout", conn:cancel { timeout = 0.05 })
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
      assert.is_true(c:cancel())
      local _, result, _, code = drive(co, c)
      assert.is_nil(result)
      assert.equal("57014", code)
      assert.equal("idle", c:status())
    end)

    it("does nothing when nothing runs", function()
      assert.is_true(conn:cancel())
      assert.equal(1, value "1")
      raises("unknown option", conn.cancel, conn, { x = 1 })
    end)

    it("fails on a lost connection", function()
      conn:query "select pg_terminate_backend(pg_backend_pid())"
      refused("connection", conn:cancel())
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
      local co = start "select pg_sleep(1), 7 as v"
      assert.equal("busy", c:status())
      assert.matches("^r?w?$", c:events())
      local turns, result = drive(co, c)
      assert.equal(7, result[1].v)
      assert.is_true(turns >= 1)
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
      local co = coroutine.create(function()
        local waited = c:query("select 1 as v", nil, { yield = false })[1].v
        local yielded = conn:query("select 2 as v, pg_sleep(1)", nil, { yield = true })[1].v
        return waited + yielded
      end)
      local ok, which = coroutine.resume(co)
      assert.is_true(ok)
      assert.equal(conn, which)
      while coroutine.status(co) ~= "dead" do
        conn:wait(5)
        which = select(2, coroutine.resume(co))
      end
      assert.equal(3, which)
    end)

    it("resumes that come too early change nothing", function()
      local co = start "select pg_sleep(1), 1 as v"
      local result
      for _ = 1, 100 do
        result = select(2, assert(coroutine.resume(co)))
        if coroutine.status(co) == "dead" then break end
        assert.equal(c, result)
      end
      if coroutine.status(co) ~= "dead" then
        result = select(2, drive(co, c))
      end
      assert.equal(1, result[1].v)
    end)

    it("a second operation raises while the first is under way", function()
      local co = start "select pg_sleep(1), 1 as v"
      raises("busy", c.query, c, "select 2")
      local other = coroutine.create(function() return c:query "select 2" end)
      local ok, message = coroutine.resume(other)
      assert.is_false(ok)
      assert.matches("busy", message)
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
      assert.is_true(c:cancel())
      while not c:step() do c:wait(5) end
      local ok, result, _, code = coroutine.resume(co)
      assert.is_true(ok)
      assert.is_nil(result)
      assert.equal("57014", code)
      assert.is_false((coroutine.resume(co)))
      assert.equal(6, c:query("select 6 as v")[1].v)
    end)

    it("several connections go on at once", function()
      local list, done = {}, 0
      for i = 1, 5 do
        local own = connect { yield = true }
        list[i] = { conn = own, co = coroutine.create(function()
          return own:query(("select pg_sleep(0.5), %d as v"):format(i))[1].v
        end) }
        coroutine.resume(list[i].co)
      end
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
