local api = require "spec.support.api"
local database = require "api.database"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"
local pg = require "atelier.pg"

describe("api.database", function()
  local service
  setup(function()
    service = api.start()
    log.configure { level = "error" } -- what a spec provokes is no news
  end)
  teardown(function() service:stop() end)

  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, httpd.live_handles())
  end)

  local function claims(user)
    return { text = assert(json.encode { sub = user, role = "authenticated" }), id = user }
  end

  -- Runs f(db) in a loop of this process.
  local function inside(options, f)
    local server = assert(httpd.listen { limits = { slice_ms = 20000 } })
    local failure
    local db = database.new { url = options.url or service.url, connections = options.connections or 2,
      timeout = options.timeout or 60, name = "spec" }
    assert(server:run { handler = function() end, on_log = options.on_log, on_start = function()
      local ok, message = xpcall(function()
        if options.start ~= false then db:start() end
        f(db)
      end, debug.traceback)
      if not ok then failure = message end
      db:close()
      server:stop()
    end })
    assert(not failure, failure)
  end

  -- Runs each function in a task of its own and waits for all.
  local function together(list)
    local left, main, results = #list, httpd.current(), {}
    for i, f in ipairs(list) do
      assert(httpd.spawn(function()
        results[i] = table.pack(f())
        left = left - 1
        if left == 0 then main:wake(true) end
      end))
    end
    if left > 0 then assert(httpd.park(60)) end
    return results
  end

  local function until_one_waits()
    local deadline = os.time() + 60
    while #assert(service.conn:query [[select 1 from pg_stat_activity
      where application_name = 'spec' and wait_event_type = 'Lock' and wait_event = 'advisory']]) == 0 do
      assert(os.time() < deadline, "no statement waits")
      httpd.sleep(0.01)
    end
  end

  local WHO = [[select current_user::text as role, auth.uid()::text as id, count(*) over () as n from devices]]

  it("runs a statement as the user, and leaves nothing behind", function()
    inside({ connections = 1 }, function(db)
      for _, plan in ipairs { "pro", "max", "pro" } do
        local rows = assert(db:as_user(claims(service[plan].user), "who", WHO))
        assert.equal(1, #rows)
        assert.same({ "authenticated", service[plan].user, 1 }, { rows[1].role, rows[1].id, rows[1].n })
      end
      local rows = assert(db:service("who_serves", WHO))
      assert.same({ "service_role", json.null, 3 }, { rows[1].role, rows[1].id, rows[1].n })
      -- What the connection itself has between two requests.
      local slot = db.pool:take()
      local row = assert(slot.conn:query [[select current_user::text as role,
        coalesce(current_setting('request.jwt.claims', true), '') as claims,
        coalesce(current_setting('request.jwt.claim.sub', true), '') as subject]])[1]
      assert.same({ "postgres", "", "" }, { row.role, row.claims, row.subject })
      getmetatable(slot).__close(slot)
    end)
  end)

  it("gives nobody another one's rows, and lets nobody write", function()
    service:file "max"
    inside({}, function(db)
      local mine = claims(service.pro.user)
      for i, relation in ipairs { "devices", "subscriptions", "licenses", "ate_files", "file_generation_queue",
        "download_history", "ate_file_versions", "file_generation_history" } do
        local key = relation == "devices" and "id" or "device_id"
        local sql = ("select 1 as one from %s where %s = $1::uuid"):format(relation, key)
        assert.equal(0, #assert(db:as_user(mine, "foreign" .. i, sql, { service.max.device })))
      end
      assert.equal(1, #assert(db:as_user(claims(service.max.user), "own", "select 1 as one from ate_files where device_id = $1::uuid",
        { service.max.device })))
      for i, sql in ipairs { "update ate_files set download_count = 0", "delete from file_generation_queue",
        "update devices set status = 'active'", "insert into download_history (ate_file_id, device_id) select id, device_id from ate_files",
        "select * from ate_workers", "select * from auth.users", "select claim_ate_generations('x')",
        "select complete_ate_generations('[]')" } do
        local rows, _, code = db:as_user(mine, "write" .. i, sql)
        assert.is_nil(rows, sql)
        assert.equal("42501", code)
      end
    end)
  end)

  it("prepares a statement once on each connection", function()
    inside({ connections = 1 }, function(db)
      for i = 1, 5 do
        assert.equal(i, assert(db:as_user(claims(service.pro.user), "number", "select $1::integer as n", { i }))[1].n)
      end
      local names = {}
      for i, row in ipairs(assert(db:service("prepared", "select name from pg_prepared_statements order by name"))) do
        names[i] = row.name
      end
      assert.same({ "ate_as_service", "ate_as_user", "number", "prepared" }, names)
      local ok, message = pcall(db.as_user, db, claims(service.pro.user), "number", "select 2 as n")
      assert.is_false(ok)
      assert.matches("two statements have the name \"number\"", message)
      assert.equal(3, assert(db:as_user(claims(service.pro.user), "number", "select $1::integer as n", { 3 }))[1].n)
    end)
  end)

  it("goes on after an error, which is its request's alone", function()
    inside({ connections = 1 }, function(db)
      for _ = 1, 2 do
        local rows, message, code = db:as_user(claims(service.pro.user), "divide", "select 1 / $1::integer as n", { 0 })
        assert.is_nil(rows)
        assert.equal("22012", code)
        assert.matches("division by zero", message)
        assert.equal(1, assert(db:as_user(claims(service.pro.user), "divide", "select 1 / $1::integer as n", { 1 }))[1].n)
      end
      local _, _, code, fields = db:as_user(claims(service.pro.user), "request",
        "select request_ate_generation($1)", { "NO-SUCH-DEVICE" })
      assert.equal("AT001", code)
      assert.equal("unknown_device", fields.detail)
      assert.equal("42601", (select(3, db:as_user(claims(service.pro.user), "broken", "selec"))))
      assert.equal(7, assert(db:service("seven", "select 7 as n"))[1].n)
    end)
  end)

  it("gives a slow statement up; others run meanwhile", function()
    inside({ timeout = 5 }, function(db) -- what is quick must be so on a slow machine, too
      local order = {}
      local results = together {
        function()
          local r = table.pack(db:as_user(claims(service.pro.user), "slow", "select pg_sleep(600)"))
          order[#order + 1] = "slow"
          return table.unpack(r, 1, r.n)
        end,
        function()
          local n = 0
          repeat n = n + 1 until not db:as_user(claims(service.max.user), "quick", "select 1 as one") or n == 20
          order[#order + 1] = "quick"
          return n
        end,
      }
      assert.is_nil(results[1][1])
      assert.equal("timeout", results[1][3])
      assert.equal(20, results[2][1])
      assert.equal("slow", order[2])
      assert.equal(2, db:stats().connections)
      assert.equal(1, assert(db:service("after", "select 1 as one"))[1].one)
    end)
  end)

  it("has one end for all that a request waits for", function()
    for _, is_quick in ipairs { true, false } do
      inside({ connections = 1, timeout = 2 }, function(db)
        local slot = db.pool:take()
        assert(httpd.spawn(function()
          while db:stats().waiting == 0 do httpd.sleep(0.01) end
          httpd.sleep(0.5)
          getmetatable(slot).__close(slot)
        end))
        local methods, left = debug.getmetatable(slot.conn).__index, nil
        local pipeline = methods.pipeline
        finally(function() methods.pipeline = pipeline end)
        function methods.pipeline(conn, batch, options)
          left = left or options.timeout
          return pipeline(conn, batch, options)
        end
        local rows, _, code = db:as_user(claims(service.pro.user), "nap", "select pg_sleep(600)", nil, false, is_quick)
        methods.pipeline = pipeline
        assert.is_nil(rows)
        assert.is_true(code == "timeout" or code == "busy", code) -- busy: on a machine that was late
        assert.is_true((left or 0) <= 1.5, left)
      end)
    end
  end)

  it("lets a bounded number wait, for a bounded time", function()
    inside({ connections = 1, timeout = 3 }, function(db)
      local slot = db.pool:take()
      local list = {}
      for i = 1, 1010 do
        list[i] = function() return db:service("one", "select 1 as one") end
      end
      local results = together(list)
      local told = {}
      for _, r in ipairs(results) do
        assert.is_nil(r[1])
        assert.equal("busy", r[3])
        told[r[2]] = (told[r[2]] or 0) + 1
      end
      assert.same({ ["database: no connection became free in time"] = 1000,
        ["database: too many requests wait for a connection"] = 10 }, told)
      assert.equal(0, db:stats().waiting)
      getmetatable(slot).__close(slot)
      assert.equal(1, assert(db:service("one", "select 1 as one"))[1].one)
    end)
  end)

  it("keeps its connections when requests end while they wait", function()
    inside({ connections = 1 }, function(db)
      local slot = db.pool:take()
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = assert(httpd.spawn(function() return db:service("one", "select 1 as one") end))
      end
      httpd.sleep(0.01)
      assert.equal(5, db:stats().waiting)
      for i = 1, 4 do tasks[i]:cancel() end
      getmetatable(slot).__close(slot) -- the fifth gets it
      tasks[5]:cancel() -- just when it is its turn
      assert.equal(1, assert(db:service("one", "select 1 as one"))[1].one)
      -- In the middle of a statement: it is awaited, and the connection stays.
      local backend = assert(db:service("backend", "select pg_backend_pid() as pid"))[1].pid
      local function nap(key)
        return db:service("nap", "select pg_advisory_lock_shared($1), pg_advisory_unlock_shared($1)", { key })
      end
      assert(nap(1))
      assert(service.conn:query "select pg_advisory_lock(2)")
      local task = assert(httpd.spawn(nap, 2))
      until_one_waits()
      task:cancel()
      assert(service.conn:query "select pg_advisory_unlock(2)")
      assert.equal(backend, assert(db:service("backend", "select pg_backend_pid() as pid"))[1].pid)
      httpd.sleep(0.01)
      assert.same({ connections = 1, idle = 1, waiting = 0 }, db:stats())
    end)
  end)

  it("is not in doubt about what it prepared when the first request to use it left", function()
    inside({ connections = 1 }, function(db)
      local function nap()
        return db:service("nap", "select pg_advisory_lock_shared(2), pg_advisory_unlock_shared(2)")
      end
      assert(service.conn:query "select pg_advisory_lock(2)")
      local task = assert(httpd.spawn(nap))
      until_one_waits()
      task:cancel()
      assert(service.conn:query "select pg_advisory_unlock(2)")
      assert(nap())
      assert.is_nil(db.is_plain) -- as behind a pooler
    end)
  end)

  it("comes back after its connections were cut, and repeats what changes nothing", function()
    inside({ connections = 3 }, function(db)
      local function settle()
        local deadline = os.time() + 60
        while db:stats().idle < 3 and os.time() < deadline do httpd.sleep(0.01) end
      end
      for round = 1, 3 do
        settle()
        assert.equal(round, assert(db:as_user(claims(service.pro.user), "round", "select $1::integer as n", { round }))[1].n)
        service.conn:query "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spec'"
        assert.equal(1, assert(db:as_user(claims(service.pro.user), "again", "select 1 as one", nil, true))[1].one)
      end
      settle()
      service.conn:query "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spec'"
      local rows, _, code = db:as_user(claims(service.pro.user), "once", "select 1 as one", nil, false)
      assert.is_nil(rows)
      assert.is_true(code == "57P01" or code == "connection", code)
      assert.equal(1, assert(db:as_user(claims(service.pro.user), "once", "select 1 as one", nil, true))[1].one)
    end)
  end)

  it("fails at once while there is no database, and is back by itself when there is one", function()
    local name = "spec_later_" .. service.url:match "(%d+)$"
    inside({ url = service.url:gsub("dbname=%S+", "dbname=" .. name) }, function(db)
      assert.is_false(db:is_ready())
      local rows, _, code = db:service("one", "select 1 as one")
      assert.is_nil(rows)
      assert.equal("connection", code)
      assert(service.conn:query("create database " .. name))
      local deadline = os.time() + 60
      while not db:is_ready() and os.time() < deadline do httpd.sleep(0.02) end
      -- 00_platform.sql is not there, but the role is the cluster's.
      assert.equal(1, assert(db:service("one", "select 1 as one"))[1].one)
    end)
    assert(service.conn:query("drop database " .. name .. " with (force)"))
  end)

  it("does without prepared statements behind a pooler that loses them", function()
    inside({ connections = 1 }, function(db)
      assert(db:service("one", "select 1 as one"))
      local slot = db.pool:take()
      assert(slot.conn:exec "deallocate all")
      getmetatable(slot).__close(slot)
      for i = 1, 3 do
        local rows = assert(db:as_user(claims(service.pro.user), "who", WHO))
        assert.same({ "authenticated", service.pro.user }, { rows[1].role, rows[1].id })
        assert.equal(i, assert(db:service("number", "select $1::integer as n", { i }))[1].n)
      end
      assert.equal(0, assert(db:service("prepared", "select count(*) as n from pg_prepared_statements"))[1].n)
    end)
  end)

  it("prepares again what a migration has outdated, on each connection, without its caller's knowing", function()
    assert(service.conn:query [[create function unsupported() returns integer language plpgsql as
      'begin raise feature_not_supported; end']])
    service.conn:query "create table outdated (a integer)"
    service.conn:query "insert into outdated values (1)"
    service.conn:query "grant select on outdated to authenticated, service_role"
    inside({ connections = 2 }, function(db)
      local function look(n)
        local slots = { db.pool:take(), db.pool:take() }
        for _, slot in ipairs(slots) do
          getmetatable(slot).__close(slot)
        end
        for _ = 1, 4 do
          local rows = assert(db:service("outdated", "select * from outdated"))
          assert.equal(n, rows[1].b)
          rows = assert(db:as_user(claims(service.pro.user), "outdated_too", "select * from outdated", nil, true, true))
          assert.equal(n, rows[1].b)
        end
      end
      look(nil)
      for n = 1, 2 do
        service.conn:query "alter table outdated drop column if exists b"
        service.conn:query(("alter table outdated add column b integer default %d"):format(n))
        look(n)
      end
      assert.is_false(db.is_plain or false)
      for _ = 1, 2 do
        local rows, _, code = db:service("unsupported", "select unsupported()")
        assert.is_nil(rows)
        assert.equal("0A000", code)
      end
    end)
    service.conn:query "drop table outdated"
    service.conn:query "drop function unsupported"
  end)

  describe("in company", function()
    local ME = [[select auth.uid()::text as id, current_user::text as role, 1 / ($1::integer - 13) as n from devices]]

    local function crowd(db, count, number)
      local list = {}
      for i = 1, count do
        local plan = ({ "starter", "pro", "max" })[i % 3 + 1]
        list[i] = function()
          return db:as_user(claims(service[plan].user), "me", ME, { number and number(i) or 1 }, true, true)
        end
      end
      return together(list)
    end

    it("keeps users apart that are sent together", function()
      inside({ connections = 1 }, function(db)
        for _ = 1, 3 do
          for i, r in ipairs(crowd(db, 50)) do
            local rows = assert(r[1], r[2])
            assert.equal(1, #rows)
            assert.same({ service[({ "starter", "pro", "max" })[i % 3 + 1]].user, "authenticated" }, { rows[1].id, rows[1].role })
          end
        end
        assert.same({ connections = 1, idle = 1, waiting = 0 }, db:stats())
      end)
    end)

    it("lets an error be the problem of its own request", function()
      inside({ connections = 2 }, function(db)
        crowd(db, 4)
        for i, r in ipairs(crowd(db, 60, function(i) return i % 20 == 7 and 13 or 1 end)) do
          if i % 20 == 7 then
            assert.is_nil(r[1])
            assert.equal("22012", r[3])
          else
            assert.equal(service[({ "starter", "pro", "max" })[i % 3 + 1]].user, assert(r[1], r[2])[1].id)
          end
        end
        local stats = db:stats() -- the second connection is there only if the first was busy when it was needed
        assert.same({ stats.connections, 0 }, { stats.idle, stats.waiting })
      end)
    end)

    it("sends what comes in one turn in few pieces, and leaves connections for others", function()
      inside({ connections = 4 }, function(db)
        local deadline = os.time() + 60
        while db:stats().idle < 4 and os.time() < deadline do httpd.sleep(0.01) end
        local sql, most = "select now()::text as at, $1::integer as n", 0
        local function ask(i)
          return function()
            most = math.max(most, db:stats().connections - db:stats().idle)
            return db:as_user(claims(service.pro.user), "moment", sql, { i }, true, true)
          end
        end
        local list = {}
        for i = 1, 32 do list[i] = ask(i) end
        for _ = 1, 4 do together(list) end -- until both connections have prepared it
        local pieces, count = {}, 0
        for i, r in ipairs(together(list)) do
          assert.equal(i, assert(r[1], r[2])[1].n)
          if not pieces[r[1][1].at] then
            pieces[r[1][1].at], count = true, count + 1
          end
        end
        assert.equal(2, count)
        assert.is_true(most <= 2)
        assert.same({ connections = 4, idle = 4, waiting = 0 }, db:stats())
      end)
    end)

    it("lets a mistake be raised in its own request alone", function()
      inside({ connections = 2 }, function(db)
        crowd(db, 4)
        local list = {}
        for i = 1, 12 do
          list[i] = function()
            return pcall(db.as_user, db, claims(service.pro.user), "me", ME, { i == 5 and {} or 1 }, true, true)
          end
        end
        for i, r in ipairs(together(list)) do
          assert.equal(i ~= 5, r[1], r[2])
        end
        assert.equal(0, db:stats().waiting)
        assert.equal(service.max.user, crowd(db, 2)[2][1][1].id)
      end)
    end)

    it("sends the others of a piece again in one, without who made the mistake", function()
      inside({ connections = 1 }, function(db)
        local sql = "select now()::text as at, 1 / ($1::integer - 13) as n"
        local list = {}
        for i = 1, 8 do
          list[i] = function()
            return db:as_user(claims(service.pro.user), "moment", sql, { i == 3 and 13 or 1 }, true, true)
          end
        end
        together { list[1] } -- prepares it
        local at
        for i, r in ipairs(together(list)) do
          if i == 3 then
            assert.same({ nil, "22012", "22012" }, { r[1], r[3], r[4].sqlstate })
          else
            at = at or assert(r[1], r[2])[1].at
            assert.equal(at, assert(r[1], r[2])[1].at)
          end
        end
        assert.same({ connections = 1, idle = 1, waiting = 0 }, db:stats())
      end)
    end)

    it("leaves nobody when one cannot be told", function()
      inside({ connections = 1, on_log = function() end }, function(db)
        crowd(db, 2)
        local methods = debug.getmetatable(httpd.current()).__index
        local wake, count = methods.wake, 0
        finally(function() methods.wake = wake end)
        function methods.wake(...)
          local rows = select(2, ...)
          if type(rows) == "table" and rows[1] and rows[1].role then
            count = count + 1
            assert(count ~= 3, "not enough memory")
          end
          return wake(...)
        end
        for _, r in ipairs(crowd(db, 9)) do
          assert.equal(1, #assert(r[1], r[2]))
        end
        assert.equal(0, db:stats().waiting)
      end)
    end)

    it("says so when no connection becomes free, and goes on when one does", function()
      inside({ connections = 1, timeout = 3 }, function(db)
        crowd(db, 2)
        local slot = db.pool:take()
        local list = {}
        for i = 1, 1010 do
          list[i] = function()
            return db:as_user(claims(service.pro.user), "me", ME, { 1 }, true, true)
          end
        end
        local told = {}
        for _, r in ipairs(together(list)) do
          assert.is_nil(r[1])
          assert.equal("busy", r[3])
          told[r[2]] = (told[r[2]] or 0) + 1
        end
        assert.same({ ["database: no connection became free in time"] = 1000,
          ["database: too many requests wait for a connection"] = 10 }, told)
        getmetatable(slot).__close(slot)
        assert.equal(service.pro.user, crowd(db, 1)[1][1][1].id)
        assert.same({ connections = 1, idle = 1, waiting = 0 }, db:stats())
      end)
    end)

    it("gives a piece up that takes too long, and sends the others again", function()
      inside({ connections = 2, timeout = 10 }, function(db)
        local sql = "select case when $1::integer = 3 then pg_sleep(600) end is null as awake"
        local list = {}
        for i = 1, 6 do
          list[i] = function()
            return db:as_user(claims(service.pro.user), "nap", sql, { i }, true, true)
          end
        end
        local first = list[3]
        list[3] = list[2]
        together(list) -- prepares it
        list[3] = first
        for i, r in ipairs(together(list)) do
          if i == 3 then
            assert.same({ nil, "timeout" }, { r[1], r[3] })
          else
            assert.is_true(assert(r[1], r[2])[1].awake)
          end
        end
      end)
    end)

    it("outlives a connection that is cut, and a request that ends", function()
      inside({ connections = 1 }, function(db)
        crowd(db, 2)
        service.conn:query "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'spec'"
        for _, r in ipairs(crowd(db, 20)) do
          assert.equal(1, #assert(r[1], r[2]))
        end
        local leader = assert(httpd.spawn(function()
          db:as_user(claims(service.pro.user), "me", ME, { 1 }, true, true)
        end))
        local main, got = httpd.current(), {}
        for i = 1, 3 do
          assert(httpd.spawn(function()
            got[i] = db:as_user(claims(service.max.user), "me", ME, { 1 }, true, true)
            if #got == 3 then main:wake(true) end
          end))
        end
        httpd.sleep(0)
        leader:cancel()
        if #got < 3 then assert(httpd.park(60)) end
        assert.equal(service.max.user, got[3][1].id)
        assert.same({ connections = 1, waiting = 0 }, { connections = db:stats().connections, waiting = db:stats().waiting })
      end)
    end)
  end)

  it("has a connection for LISTEN", function()
    inside({}, function(db)
      local conn <close> = assert(db:listener())
      assert(conn:listen "spec_channel")
      assert(service.conn:query "notify spec_channel, 'hello'")
      assert.equal("hello", assert(conn:notifications(60))[1].payload)
    end)
  end)
end)

describe("the API and its database", function()
  it("answers 503 with Retry-After while there is none, and serves when there is", function()
    local postgres = require "spec.support.postgres"
    local name = "spec_api_away"
    local service = api.start { url = postgres.conninfo(name), superuser = postgres.conninfo "postgres", wait = false }
    local token = service:token "a0000000-0000-4000-8000-000000000001"
    service:wait(false)
    assert.equal(200, service:get("/healthz").status)
    local answer = service:get("/api/ate/plans", { token = token })
    assert.equal(503, answer.status)
    assert.matches("^%d+$", answer.headers["retry-after"])
    assert.same({ code = "unavailable", message = "the database is not available", details = json.null, hint = json.null },
      answer.json)
    assert.equal(401, service:get("/api/ate/plans").status)
    local conn <close> = assert(pg.connect(postgres.conninfo "postgres"))
    assert(conn:query("create database " .. name))
    service:wait()
    answer = service:get("/api/ate/plans", { token = token })
    assert.same({ 500, "internal" }, { answer.status, answer.json.code }) -- it is empty: no such table
    assert.is_nil(answer.body:find("relation", 1, true))
    assert.matches("relation .* does not exist", service:log())
    service:stop()
    assert(conn:query("drop database " .. name .. " with (force)"))
  end)

  it("answers 504 when a statement takes too long, 403 when one is not permitted", function()
    local service = api.start { config = { api_timeout = 5, api_connections = 2 } }
    local token = service:token(service.pro.user)
    assert(service.conn:exec [[begin; lock table plans in access exclusive mode]])
    local answer = service:get("/api/ate/plans", { token = token })
    assert.same({ 504, "timeout" }, { answer.status, answer.json.code })
    assert.equal(200, service:get("/api/ate/history", { token = token }).status)
    assert(service.conn:exec "rollback; revoke select on plans from authenticated")
    answer = service:get("/api/ate/plans", { token = token })
    assert.same({ 403, "forbidden" }, { answer.status, answer.json.code })
    assert(service.conn:exec "grant select on plans to authenticated")
    assert(service.conn:exec(("alter database %s set default_transaction_read_only = on"):format(
      service.url:match "dbname=(%S+)")))
    assert(service.conn:query [[select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()]])
    answer = service:get("/api/ate/plans", { token = token })
    assert.equal(200, answer.status, answer.body)
    answer = service:post("/api/ate/generate", { device_hash = service.pro.hash }, { token = token })
    assert.same({ 503, "read_only" }, { answer.status, answer.json.code })
    service:stop()
  end)
end)
