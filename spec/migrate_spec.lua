local migrate = require "migrate"
local pg = require "atelier.pg"
local support = require "spec.support.postgres"

describe("migrate", function()
  local url, conn, dir
  local opened = {}

  local function connect(where, options)
    local c = assert(pg.connect(where or url, options))
    opened[#opened + 1] = c
    return c
  end

  local function write(name, text)
    local file = assert(io.open(dir .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end

  local function states(list)
    local words = {}
    for i, migration in ipairs(list) do
      words[i] = migration.name:sub(1, 2) .. " " .. migration.state
    end
    return table.concat(words, ", ")
  end

  local function run(options)
    options = options or {}
    options.conn, options.dir = options.conn or conn, dir
    local list, message, code = migrate.run(options)
    return list and states(list), message, code
  end

  local function status()
    return states(assert(migrate.status { conn = conn, dir = dir }))
  end

  local function refused(code, result, message, got)
    assert.is_nil(result)
    assert.equal(code, got)
    return message
  end

  local function value(sql, c)
    return assert((c or conn):query("select " .. sql .. " as v"))[1].v
  end

  -- The tables that the API's roles may use, each as "role table privilege".
  local function grants()
    local rows = assert(conn:query [[select grantee || ' ' || privilege_type as v
      from information_schema.role_table_grants
      where table_name = 'atelier_migrations' and grantee <> current_user order by 1]])
    local list = {}
    for i, row in ipairs(rows) do
      list[i] = row.v
    end
    return table.concat(list, ", ")
  end

  -- A Supabase project in small: its roles, its auth schema, and a `postgres` that is no superuser.
  local SUPABASE = [[
    do $$ begin
      create role anon; create role authenticated; create role service_role bypassrls;
    exception when duplicate_object then null; end $$;
    do $$ begin
      create role supabase_auth_admin; create role project_owner login createrole bypassrls;
      grant anon, authenticated, service_role to project_owner with admin option;
    exception when duplicate_object then null; end $$;
    grant all on schema public to project_owner;
    create schema auth authorization supabase_auth_admin;
    create function auth.uid() returns uuid language sql as 'select null::uuid';
    grant usage on schema auth to project_owner;
    alter default privileges for role project_owner in schema public
      grant all on tables to anon, authenticated, service_role;
  ]]

  before_each(function()
    dir = io.popen("exec env -u LD_PRELOAD mktemp -d /tmp/atelier-sql.XXXXXX"):read "l"
    url = support.database "migrate"
    conn = connect()
    write("00_platform.sql", "create table if not exists platform (a int);")
    write("10_tables.sql", "create table if not exists things (a int);\ninsert into things values (1);\n")
  end)

  after_each(function()
    for i = #opened, 1, -1 do
      opened[i]:close()
      opened[i] = nil
    end
    for _, name in ipairs(require("posix.dirent").dir(dir)) do
      os.remove(dir .. "/" .. name)
    end
    os.remove(dir)
    collectgarbage()
    collectgarbage()
    assert.equal(0, pg.live_handles())
  end)

  it("runs what is not there, in the order of the names, once", function()
    write("11_more.sql", "insert into things select max(a) + 1 from things")
    write("notes.txt", "not SQL")
    assert.equal("00 applied, 10 applied, 11 applied", run())
    assert.equal("00 unchanged, 10 unchanged, 11 unchanged", run())
    assert.equal("00 applied, 10 applied, 11 applied", status())
    assert.equal(2, value "(select count(*) from things)")
  end)

  it("tells what happens as it happens", function()
    local seen = {}
    run { on_event = function(event) seen[#seen + 1] = event.name:sub(1, 2) .. " " .. event.state end }
    assert.same({ "00 running", "00 applied", "10 running", "10 applied" }, seen)
  end)

  it("runs a changed file again", function()
    run()
    write("10_tables.sql", "insert into things values (2);")
    assert.equal("00 applied, 10 changed", status())
    assert.equal("00 unchanged, 10 updated", run())
    assert.equal(2, value "(select count(*) from things)")
    assert.equal("00 applied, 10 applied", status())
  end)

  it("runs over what was pasted by hand before", function()
    assert(conn:exec "create table if not exists things (a int);\ninsert into things values (1);\n")
    assert.equal("00 applied, 10 applied", run())
    assert.equal(2, value "(select count(*) from things)")
  end)

  it("shows with dry_run what it would do, and touches nothing", function()
    assert.equal("00 would_apply, 10 would_apply", run { dry_run = true })
    assert.is_true(value "to_regclass('public.atelier_migrations') is null and to_regclass('things') is null")
    assert.equal("00 pending, 10 pending", status())
    assert.is_true(value "to_regclass('public.atelier_migrations') is null")
    run()
    write("10_tables.sql", "select 1")
    assert.equal("00 unchanged, 10 would_update", run { dry_run = true })
    assert.equal("00 applied, 10 changed", status())
  end)

  it("undoes a file that fails, keeps those before, and names the line", function()
    write("10_tables.sql", "-- é é é\ncreate table things (a int);\nselect 1;\n\ninsert into nope values (1);\n")
    local message = refused("42P01", run())
    assert.equal('migrate: 10_tables.sql: line 5: relation "nope" does not exist', message)
    assert.equal("00 applied, 10 pending", status())
    assert.is_true(value "to_regclass('things') is null")
    assert.equal("idle", conn:status())
    write("10_tables.sql", "create table things (a int)")
    assert.equal("00 unchanged, 10 applied", run())
  end)

  it("names the file whose commit fails", function()
    write("11_late.sql", [[create table p (a int primary key);
      create table c (a int references p deferrable initially deferred);
      insert into c values (1)]])
    local message = refused("23503", run())
    assert.matches("11_late.sql", message, 1, true)
    assert.equal("00 applied, 10 applied, 11 pending", status())
  end)

  it("refuses a file that begins or ends a transaction, and does not record it", function()
    write("10_tables.sql", "create table things (a int); commit;")
    assert.matches("must not begin or end", refused("migration", run()))
    assert.equal("00 applied, 10 pending", status())
  end)

  it("refuses files that are not text, and folders without any", function()
    write("12_odd.sql", "select '\255'")
    assert.matches("12_odd.sql: not a UTF%-8 text", refused("migration", run()))
    write("12_odd.sql", "select 1\0")
    assert.matches("12_odd.sql", refused("migration", run()))
    assert.is_true(value "to_regclass('things') is null")
    refused("migration", migrate.run { conn = conn, dir = dir .. "/nope" })
    for _, name in ipairs { "00_platform.sql", "10_tables.sql", "12_odd.sql" } do
      os.remove(dir .. "/" .. name)
    end
    assert.matches("no SQL files", refused("migration", run()))
  end)

  it("raises for an unknown option", function()
    assert.has_error(function() migrate.run { conn = conn, dri = dir } end, "unknown option 'dri'")
    assert.has_error(function() migrate.status { conn = conn, x = 1 } end, "unknown option 'x'")
  end)

  describe("a newer database", function()
    it("is refused by an older program, which changes nothing", function()
      write("12_newer.sql", "select 1")
      run()
      os.remove(dir .. "/12_newer.sql")
      local message = refused("newer", run())
      assert.matches("12_newer.sql", message, 1, true)
      assert.equal("00 applied, 10 applied, 12 newer", status())
      refused("newer", run { dry_run = true })
      assert.is_true(migrate.require_current(conn, dir))
    end)

    it("is told by the checksums too, and may be forced", function()
      run()
      write("10_tables.sql", "insert into things values (2);")
      run()
      write("10_tables.sql", "create table if not exists things (a int);\ninsert into things values (1);\n")
      assert.equal("00 applied, 10 newer", status())
      assert.matches("10_tables.sql", refused("newer", run()), 1, true)
      assert.equal("00 unchanged, 10 updated", run { force = true })
      assert.equal("00 applied, 10 applied", status())
      assert.equal(3, value "(select count(*) from things)")
    end)
  end)

  describe("require_current", function()
    it("is for a worker on an older database", function()
      assert.matches("00_platform.sql, 10_tables.sql", refused("schema", migrate.require_current(conn, dir)), 1, true)
      run()
      assert.is_true(migrate.require_current(conn, dir))
      write("10_tables.sql", "select 2")
      assert.matches("atelier migrate", refused("schema", migrate.require_current(conn, dir)))
    end)

    it("passes on what the database says", function()
      conn:query "select pg_terminate_backend(pg_backend_pid())"
      refused("connection", migrate.require_current(conn, dir))
      refused("connection", run())
      refused("connection", migrate.status { conn = conn, dir = dir })
    end)
  end)

  describe("two at once", function()
    it("apply each file once", function()
      -- A third connection holds a table that file 10 needs.
      local gate, other = connect(), connect(url, { yield = true })
      assert(gate:exec "create table gate ()")
      assert(gate:exec "begin; lock table gate")
      write("10_tables.sql", [[lock table gate; create table if not exists things (a int);
        insert into things values (1);]])
      local co = coroutine.create(function()
        return migrate.run { conn = other, dir = dir }
      end)
      local _, list = assert(coroutine.resume(co))
      while value "(select count(*) from pg_locks where not granted)" == 0 do
        assert(coroutine.resume(co))
      end
      local waited = 0
      assert.equal("suspended", coroutine.status(co))
      local message = refused("locked", run { lock_wait = 0.01, on_event = function(event)
        waited = waited + (event.state == "waiting" and 1 or 0)
      end })
      assert.matches("another process has been migrating", message)
      assert.equal(1, waited)
      assert(gate:exec "commit")
      while coroutine.status(co) ~= "dead" do
        other:wait(5)
        _, list = assert(coroutine.resume(co))
      end
      assert.equal("00 applied, 10 applied", states(list))
      assert.equal("00 unchanged, 10 unchanged", run())
      assert.equal(1, value "(select count(*) from things)")
    end)

    it("wait for each other", function()
      local holder = connect()
      assert(holder:exec "begin; select pg_advisory_xact_lock(1098147180)")
      local released = false
      local result = run { on_event = function(event)
        if event.state == "waiting" and not released then
          released = true
          -- Ends by itself while the migration waits.
          assert(holder:exec "set idle_in_transaction_session_timeout to 50")
        end
      end }
      assert.is_true(released)
      assert.equal("00 applied, 10 applied", result)
    end)

    it("see the table that the other makes while they wait", function()
      local holder = connect(nil, { yield = true })
      local make = coroutine.wrap(function()
        assert(holder:exec "begin; select pg_advisory_xact_lock(1098147180)")
        coroutine.yield "locked"
        assert(holder:exec([[
          do $$ begin
            while not exists (select from pg_locks where locktype = 'advisory' and not granted) loop
              perform pg_sleep(0.002);
            end loop;
          end $$;]] .. require("migrate.records").CREATE .. "; commit"))
        return "done"
      end)
      while make() ~= "locked" do
        holder:wait(5)
      end
      local result, message = run { on_event = function(event)
        if event.state == "waiting" then
          make()
        end
      end }
      assert.is_nil(message)
      assert.equal("00 applied, 10 applied", result)
      while make() ~= "done" do
        holder:wait(5)
      end
    end)
  end)

  describe("its table", function()
    it("is not exposed to the API", function()
      support.run(url, SUPABASE)
      local owner = connect(url:gsub("user=%S+", "user=project_owner"), nil)
      assert.equal("00 not needed, 10 applied", run { conn = owner })
      assert.equal("00 not needed, 10 unchanged", run { conn = owner })
      assert.equal("00 not needed, 10 applied", status())
      assert.is_true(value "to_regclass('platform') is null")
      assert.equal("service_role SELECT", grants():gsub("project_owner [%u]+,? ?", ""))
      assert.is_true(value "(select relrowsecurity from pg_class where relname = 'atelier_migrations')")
      assert.is_true(migrate.require_current(owner, dir))
      assert(conn:exec "set role service_role")
      assert.is_true(migrate.require_current(conn, dir))
      assert(conn:exec "set role authenticated")
      assert.is_nil((migrate.require_current(conn, dir)))
    end)

    it("hides from roles that a migration makes", function()
      write("00_platform.sql", [[do $$ begin create role anon; exception when duplicate_object then null; end $$;
        grant all on all tables in schema public to anon]])
      run()
      assert.is_nil(grants():find "anon")
    end)
  end)
end)
