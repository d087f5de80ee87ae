-- atelier.pg: types, parameters and rows.
local pg = require "atelier.pg"
local support = require "spec.support.pg"

local value, refused, raises = support.value, support.refused, support.raises

describe("atelier.pg", function()
  local conn

  setup(function()
    support.open()
  end)

  before_each(function()
    conn = support.begin()
  end)

  after_each(support.finish)

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
end)
