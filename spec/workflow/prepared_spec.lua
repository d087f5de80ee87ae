local database = require "spec.sql.database"
local pg = require "atelier.pg"
local prepared = require "workflow.prepared"

describe("prepared statements of a worker", function()
  local conn

  before_each(function()
    conn = assert(pg.connect(database.fresh()))
    assert(conn:exec "create table t (a integer)")
    assert(conn:exec "insert into t values (1)")
  end)

  after_each(function()
    conn:close()
    collectgarbage()
    collectgarbage()
    assert.equal(0, pg.live_handles())
  end)

  local function ask(n)
    local results = assert(prepared.pipeline(conn, {
      { "insert into t values ($1)", { n } },
      { "select *, $1::integer as given from t order by a", { n }, name = "look" },
    }, { timeout = 60 }))
    assert.equal(n, results[2][1].given)
    return results[2]
  end

  local function names()
    return conn:query "select name from pg_prepared_statements where name = 'look'"
  end

  it("are prepared once and sent by name", function()
    for n = 2, 5 do
      assert.equal(n, #ask(n))
      assert.equal(1, #names())
    end
    assert.equal(1, conn:query("select count(*)::int as n from pg_prepared_statements where name <> ''")[1].n)
  end)

  it("are sent whole once they are gone, as behind a pooler", function()
    ask(2)
    assert(conn:exec "deallocate all")
    for n = 3, 5 do
      assert.equal(n, #ask(n)) -- and what else was in the transaction has happened once
    end
    assert.equal(0, #names())
  end)

  it("are sent whole where another session's go by that name", function()
    assert(conn:exec "prepare look as select 'something else'")
    assert.equal(2, #ask(2))
    assert.equal(3, #ask(3))
  end)

  it("are prepared again when a migration has changed what they give", function()
    ask(2)
    for n, column in ipairs { "b", "c" } do
      assert(conn:exec(("alter table t add column %s text default 'new'"):format(column)))
      assert.equal("new", ask(n + 2)[1][column])
      assert.equal(n + 2, conn:query("select count(*)::int as n from t")[1].n) -- what else was in it has happened once
      assert.equal(1, #names())
    end
  end)

  it("are not tried for ever when it is something else that is not supported", function()
    ask(2)
    local bad = { { "do $$ begin raise feature_not_supported; end $$" }, { "select 1", name = "one" } }
    assert.equal("0A000", select(3, prepared.pipeline(conn, bad)))
    assert.equal(3, #ask(3))
  end)

  it("tell of a statement that is wrong, and of a session that is over", function()
    local wrong = { { "select wrong from t", name = "wrong" } }
    assert.equal("42703", select(3, prepared.pipeline(conn, wrong)))
    assert.equal("42703", select(3, prepared.pipeline(conn, wrong)))
    assert.equal(2, #ask(2))
    local pid = conn:backend_pid()
    local other <close> = assert(pg.connect(database.fresh()))
    assert(other:query("select pg_terminate_backend($1, 60000)", { pid }))
    local results, message = prepared.pipeline(conn, { { "select 1", name = "one" } }, { timeout = 60 })
    assert.is_nil(results)
    assert.is_string(message)
    assert.equal("lost", conn:status())
  end)
end)
