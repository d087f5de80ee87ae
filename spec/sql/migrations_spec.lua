local database = require "spec.sql.database"
local files = require "migrate.files"
local migrate = require "migrate"
local pg = require "atelier.pg"
local support = require "spec.support.postgres"

local function dump(conninfo)
  local command = ("pg_dump -s -h %s -U postgres %s"):format(support.host(), conninfo:match "dbname=(%S+)")
  local pipe = assert(io.popen("exec env -u LD_PRELOAD " .. command, "r"))
  -- Newer ones write a random word at both ends.
  local text = pipe:read("a"):gsub("\\[un]*restrict [^\n]*", "")
  assert(pipe:close())
  return text
end

local function project(...)
  local conninfo = support.database "project"
  database.fixture(conninfo, "supabase")
  for _, name in ipairs { ... } do
    database.fixture(conninfo, name)
  end
  return conninfo, (conninfo:gsub("user=postgres", "user=project"))
end

describe("the migrations", function()
  local sessions = {}

  local function session(conninfo)
    local s = database.session(conninfo)
    sessions[#sessions + 1] = s
    return s
  end

  after_each(function()
    for _, s in ipairs(sessions) do
      s:close()
    end
    sessions = {}
    collectgarbage()
    collectgarbage()
    assert.equal(0, pg.live_handles())
  end)

  it("apply to an empty database, and again without change", function()
    local conninfo = support.database "empty"
    database.migrate(conninfo)
    local first = dump(conninfo)
    database.migrate(conninfo)
    assert.equal(first, dump(conninfo))
    assert.truthy(first:find("CREATE FUNCTION public.claim_ate_generations", 1, true))
  end)

  for name, fixtures in pairs { ["new"] = {}, ["classic"] = { "classic_privileges" } } do
    it("apply to a Supabase project with " .. name .. " default privileges, and again without change", function()
      local admin, owner = project(table.unpack(fixtures))
      database.migrate(owner)
      local first = dump(admin)
      database.migrate(owner)
      assert.equal(first, dump(admin))
      local s = session(admin)
      assert.is_false(s:value "rolsuper from pg_roles where rolname = 'project'")
      assert.equal("project", s:value "pg_get_userbyid(relowner) from pg_class where relname = 'ate_files'")
    end)
  end

  it("end by recording themselves, each with the checksum of what stands before", function()
    for _, file in ipairs(assert(files.read "sql")) do
      local sum, _, stamp, record = files.checksum(file.text)
      if not file.name:find "^00_" then
        local edition = files.edition(record)
        assert.is_true(edition > 0)
        assert.equal(files.stamp(file.name, edition, sum), stamp, "stale: run `atelier run spec/support/stamp.lua`")
      end
    end
  end)

  it("count as run where they were pasted, and `atelier migrate` goes on from there", function()
    local plain = support.database "pasted"
    local admin, owner = project()
    for conninfo, look in pairs { [plain] = plain, [owner] = admin } do
      database.migrate(conninfo)
      local conn = session(conninfo).conn
      assert.is_true(migrate.require_current(conn, "sql"))
      for _, file in ipairs(assert(migrate.status { conn = conn, dir = "sql" })) do
        assert.equal(file.name:find "^00_" and "not needed" or "applied", file.state)
      end
      for _, file in ipairs(assert(migrate.run { conn = conn, dir = "sql" })) do
        assert.equal(file.name:find "^00_" and "not needed" or "unchanged", file.state)
      end
      local s = session(look)
      assert.is_false(s:value "has_table_privilege('authenticated', 'atelier_migrations', 'select')")
      assert.is_true(s:value "relrowsecurity from pg_class where relname = 'atelier_migrations'")
    end
  end)

  it("are missed where one was not pasted, or an older form of it", function()
    local conninfo = support.database "partly"
    for _, name in ipairs { "00_platform", "10_ate_file_system", "11_ate_helper_functions", "12_ate_operations",
      "13_ate_api" } do
      database.paste(conninfo, name)
    end
    local s = session(conninfo)
    local _, message = migrate.require_current(s.conn, "sql")
    assert.equal("migrate: the database lacks 14_ate_keeper.sql: run `atelier migrate`", message)
    database.paste(conninfo, "14_ate_keeper")
    s.conn:query "update atelier_migrations set checksum = 'older' where name = '12_ate_operations.sql'"
    _, message = migrate.require_current(s.conn, "sql")
    assert.matches("lacks 12_ate_operations.sql:", message, 1, true)
    assert(migrate.run { conn = s.conn, dir = "sql" })
    assert.is_true(migrate.require_current(s.conn, "sql"))
  end)

  it("are missed where an older form of one was pasted over it, however that is recorded", function()
    local conninfo = support.database "pasted_over"
    database.migrate(conninfo)
    local s = session(conninfo)
    local file = assert(files.read "sql")["14_ate_keeper.sql"]
    local edition = files.edition(file.checksum)
    -- Without an edition, as files had none; and with one, of a file that is older than this one.
    for _, record in ipairs { ("0"):rep(64), ("%d %s"):format(edition - 1, ("1"):rep(64)) } do
      s.conn:query("select record_ate_migration('14_ate_keeper.sql', $1)", { record })
      local _, message = migrate.require_current(s.conn, "sql")
      assert.equal("migrate: the database lacks 14_ate_keeper.sql: run `atelier migrate`", message)
      for _, done in ipairs(assert(migrate.run { conn = s.conn, dir = "sql" })) do
        assert.equal(done.name == file.name and "updated" or done.name:find "^00_" and "not needed" or "unchanged", done.state)
      end
      assert.is_true(migrate.require_current(s.conn, "sql"))
    end
    s.conn:query("select record_ate_migration('14_ate_keeper.sql', $1)", { ("%d %s"):format(edition + 1, ("2"):rep(64)) })
    local _, _, code = migrate.run { conn = s.conn, dir = "sql" }
    assert.equal("newer", code)
  end)

  it("give the same rights whatever the default privileges are", function()
    local rights = {}
    for i, fixtures in ipairs { {}, { "classic_privileges" } } do
      local admin, owner = project(table.unpack(fixtures))
      database.migrate(owner)
      rights[i] = session(admin):value [[string_agg(line, e'\n' order by line) from (
        select relname || ' ' || a.grantee::regrole || ' ' || a.privilege_type as line
        from pg_class c, aclexplode(c.relacl) a
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.grantee <> c.relowner
          and relname not in ('devices', 'subscriptions', 'licenses')
        union all
        select p.proname || ' ' || case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end || ' X'
        from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace = 'public'::regnamespace and a.grantee <> p.proowner) x]]
    end
    assert.equal(rights[1], rights[2])
    assert.is_nil(rights[1]:find("PUBLIC", 1, true))
    assert.is_nil(rights[1]:find(" anon ", 1, true))
    assert.truthy(rights[1]:find("ate_files authenticated SELECT", 1, true))
    assert.is_nil(rights[1]:find("claim_ate_generations authenticated", 1, true))
  end)

  it("work over a project's rows and leave them as they are", function()
    local admin, owner = project()
    local before = session(admin):value "jsonb_agg(to_jsonb(s) order by s.device_id)::text from subscriptions s"
    database.migrate(owner)
    local s = session(owner)
    assert.equal(before, s:value "jsonb_agg(to_jsonb(s) order by s.device_id)::text from subscriptions s")
    local plans = {}
    for n = 1, 6 do
      local info = s:one("select * from get_device_plan_info($1)", { "LEGACY-" .. n })
      plans[n] = info.plan_name
      assert.is_true(info.is_valid)
    end
    assert.same({ "starter", "pro", "max", "starter", "starter", "starter" }, plans)
    assert.is_false(s:value "convalidated from pg_constraint where conname = 'subscriptions_plan_id_plans_name_fkey'")
    -- Touching an old row neither translates nor refuses it.
    s:query "update subscriptions set status = 'suspended' where plan_id in ('basic', 'garbage')"
    assert.equal(2, s:value "count(*) from subscriptions where status = 'suspended' and plan_id in ('basic', 'garbage')")
  end)

  -- As it was before 13_ate_api.sql: what later files changed is put back, with rows in every table.
  it("bring a database of the first version, with rows in it, to where a new one is", function()
    local conninfo = support.database "older"
    database.migrate(conninfo)
    local new = dump(conninfo)
    local s = session(conninfo)
    support.run(conninfo, [[
      drop function ate_status, ate_status_members, ate_json_time, ate_download, request_ate_generation,
        ate_present_jobs, ate_job_owners,
        ate_queue_summary, ate_measure, ate_series, ate_worker_list, ate_job_list, trim_ate_downloads, ate_person,
        ate_judge, ate_quick, ate_standing, ate_ranked, ate_file_fault, ate_enqueue_jobs, ate_request, ate_place,
        ate_log_downloads;
      create function ate_jobs_of(ids uuid[]) returns integer language sql as 'select 1';
      drop table ate_queue_minutes;
      drop trigger ate_forget_versions on devices;
      drop function ate_forget_versions;
      drop index download_history_created, file_generation_queue_failed;
      alter table ate_file_versions add constraint ate_file_versions_device_id_fkey foreign key (device_id)
        references devices (id) on delete cascade;
      alter table file_generation_queue alter column created_at set default now();
      insert into auth.users (id) values ('00000000-0000-0000-0000-000000000001');
      insert into ate_templates (name, version, template_path) values ('smartgram', '1', 'p');
      insert into devices (user_id, device_hash) select '00000000-0000-0000-0000-000000000001', 'OLD-' || n
        from generate_series(1, 4) n;
      insert into file_generation_queue (device_id, template_id, status, lease_until, attempt, worker_id, finished_at,
          device_hash, plan_tools, container, generation)
        select d.id, t.id, x.status, x.lease, 1, 'w', x.done, x.hash, '[]', 'ate1', 2 from ate_templates t, devices d, (values
          ('OLD-1', 'queued', null, null), ('OLD-2', 'processing', now() + interval '1 hour', null),
          ('OLD-3', 'completed', null, now()), ('OLD-4', 'failed', null, now())) x (hash, status, lease, done)
        where d.device_hash = x.hash;
      insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum, encryption_key_hash)
        select d.id, t.id, 'f', 'generated/old', 1, repeat('a', 64), repeat('a', 64) from devices d, ate_templates t;
      insert into ate_file_versions (ate_file_id, device_id, template_id, artifact_id, generation, container, filename,
          file_path, file_size_bytes, checksum, encryption_key_hash, created_at)
        select id, device_id, template_id, artifact_id, 1, container, filename, 'generated/older', 1, checksum, checksum, now()
        from ate_files]])
    local function rows()
      return s:value [[jsonb_build_array((select jsonb_agg(to_jsonb(q) order by q.id) from file_generation_queue q),
        (select jsonb_agg(to_jsonb(f) order by f.id) from ate_files f),
        (select jsonb_agg(to_jsonb(v) order by v.id) from ate_file_versions v))::text]]
    end
    local before = rows()
    database.migrate(conninfo)
    assert.equal(new, dump(conninfo))
    assert.equal(before, rows())
    assert.equal("completed", s:value "state from ate_status('OLD-3')")
    -- The job that the older version's worker claimed is completed by the new functions.
    assert.is_string(s:value [[complete_ate_generation((select id from file_generation_queue where status = 'processing'),
      'generated/new', 1, repeat('a', 64), repeat('a', 64), 1)]])
    -- A device takes its former files along, reference or not.
    assert.equal(5, s:value "count(*) from ate_file_versions")
    s:query "delete from devices where device_hash in ('OLD-1', 'OLD-2')"
    assert.equal(2, s:value "count(*) from ate_file_versions")
  end)

  it("translate a former plan id that is written, and refuse an unknown one", function()
    local _, owner = project()
    database.migrate(owner)
    local s = session(owner)
    for alias, plan in pairs { basic = "starter", premium = "pro", enterprise = "max", max = "max" } do
      s:query "update subscriptions set plan_id = null"
      s:query("update subscriptions set plan_id = $1", { alias })
      assert.equal(6, s:value("count(*) from subscriptions where plan_id = $1", { plan }))
    end
    assert.equal("23503", (s:refused "update subscriptions set plan_id = 'nonsense'"))
    -- An operator's own plan may have a former name.
    s:query "insert into plans (name, display_name, price_jpy) values ('premium', 'Premium', 8800)"
    s:query "update subscriptions set plan_id = 'premium'"
    assert.equal(6, s:value "count(*) from subscriptions where plan_id = 'premium'")
    s:query "insert into devices (device_hash) values ('NEW')"
    s:query "insert into subscriptions (device_id) select id from devices where device_hash = 'NEW'"
    assert.equal("starter", s:value "plan_id from subscriptions order by created_at desc limit 1")
    database.migrate(owner)
    assert.is_true(s:value "convalidated from pg_constraint where conname = 'subscriptions_plan_id_plans_name_fkey'")
  end)

  it("serve a Supabase project whose owner is no superuser, from the purchase to the download", function()
    local admin, owner = project()
    database.migrate(owner)
    local s = session(owner)
    s:query "select publish_ate_template('smartgram', '1', 'p', '[]', '[]', repeat('a', 64))"
    s:query [[update devices set user_id = '00000000-0000-0000-0000-000000000001', status = 'suspended'
      where device_hash in ('LEGACY-1', 'LEGACY-3')]]
    s:query "update devices set status = 'active' where device_hash = 'LEGACY-3'"
    -- The worker and the API log in as what may take the roles on; neither owns anything.
    local api = session((admin:gsub("user=postgres", "user=authenticator")))
    local service, user = "service_role", "authenticated"
    local claims = '{"sub": "00000000-0000-0000-0000-000000000001", "role": "authenticated"}'
    local function as(role, sql, params)
      api:query "begin"
      api:query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)", { role, claims })
      local rows = api:query(sql, params)
      api:query "commit"
      return rows
    end
    local job = as(service, "select * from claim_ate_generations('w', 5)")[1]
    assert.equal("LEGACY-3", job.device_hash)
    assert.equal("processing", as(user, "select * from ate_status('LEGACY-3')")[1].state)
    local file = as(service, [[select complete_ate_generation($1, 'generated/a', 9, repeat('a', 64), repeat('a', 64),
      1) as id]], { job.queue_id })[1].id
    assert.is_true(as(user, "select * from ate_status('LEGACY-3')")[1].is_ready)
    assert.equal("ok", as(user, "select * from ate_download($1)", { file })[1].verdict)
    assert.equal("device_not_active", as(user, "select * from ate_status('LEGACY-1')")[1].reason)
    assert.equal(0, #as(user, "select * from ate_status('LEGACY-2')"))
    assert.is_true(as(user, "select * from request_ate_generation('LEGACY-3')")[1].created)
    assert.equal(1, #as(user, "select * from ate_present_jobs()"))
    assert.is_true(#as(service, "select * from ate_queue_summary()") > 0)
    assert.is_true(as(service, "select * from ate_worker_list()")[1].alive)
    as(service, "select log_download($1, null, null, 9)", { file })
    assert.equal(1, as(user, "select * from ate_status('LEGACY-3')")[1].download_count)
  end)

  it("leave a Supabase project's own things to it", function()
    local admin, owner = project()
    local s = session(admin)
    local function auth()
      return s:value "string_agg(pg_get_functiondef(p.oid), '' order by p.proname) from pg_proc p where p.pronamespace = 'auth'::regnamespace"
    end
    local before = auth()
    database.migrate(owner)
    assert.equal(before, auth())
    assert.is_nil(dump(admin):find("devices_own", 1, true))
  end)

  it("hold the plans, and do not undo what an operator changed", function()
    local conninfo = support.database "plans"
    database.migrate(conninfo)
    local s = session(conninfo)
    assert.same({
      { name = "starter", display_name = "⚡ STARTER", price_jpy = 2980, max_devices = 1, trial_days = 3, n = 2 },
      { name = "pro", display_name = "🚀 PRO", price_jpy = 6980, max_devices = 3, trial_days = 3, n = 6 },
      { name = "max", display_name = "👑 MAX", price_jpy = 15800, max_devices = 10, trial_days = 3, n = 11 },
    }, { table.unpack(s:query [[select name, display_name, price_jpy, max_devices, trial_days, jsonb_array_length(tools) as n
      from plans order by price_jpy]]) })
    s:query "update plans set price_jpy = 7000 where name = 'pro'"
    database.migrate(conninfo)
    assert.equal(7000, s:value "price_jpy from plans where name = 'pro'")
  end)

  it("leave downloads of before to the keeper, who gives them to whose they were", function()
    local conninfo = support.database "owners"
    database.migrate(conninfo)
    local s = session(conninfo)
    local one, other = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    s:query("insert into auth.users (id) values ($1), ($2)", { one, other })
    s:query "select publish_ate_template('t', '1.0.0', 'templates/t.at/', '[]', '[]', repeat('a', 64))"
    for _, hash in ipairs { "DEV-A", "DEV-B", "DEV-C" } do
      s:device { hash = hash, user = 1, plan = "pro" }
      local file = s:complete(s:one "select * from claim_ate_generations('w', 1)")
      for _ = 1, 4 do
        s:query("select log_download($1, '192.0.2.1', 'agent', 1000)", { file })
      end
    end
    s:query "update devices set user_id = null where device_hash = 'DEV-C'"
    -- As an older version left it.
    s.conn:exec [[drop policy download_history_own on download_history; alter table download_history drop column user_id;
      create policy download_history_own on download_history for select to authenticated
        using (device_id = any (array(select ate_own_devices())))]]
    local before = s:value "pg_relation_filenode('download_history')"
    database.migrate(conninfo)
    assert.equal(before, s:value "pg_relation_filenode('download_history')")
    assert.equal(12, s:value "count(*) from download_history where user_id is null")
    assert.is_true(s:value "qual ~ 'user_id' from pg_policies where policyname = 'download_history_own'")
    -- One changes hands before the keeper comes.
    s:query("update devices set user_id = $1 where device_hash = 'DEV-B'", { other })
    local function whose()
      return s:value [[string_agg(w, ', ' order by w) from (
        select d.device_hash || ' ' || coalesce(right(h.user_id::text, 1), '-') || ' ' || count(*) as w
        from download_history h join devices d on d.id = h.device_id group by d.device_hash, h.user_id) x]]
    end
    assert.equal("DEV-A - 4, DEV-B 1 4, DEV-C - 4", whose())
    local function pass(batch)
      local given, place, calls = 0, "infinity", 0
      repeat
        local row = s:one("select last::text as last, given from give_ate_downloads($1, $2::timestamptz)", { batch, place })
        given, place, calls = given + row.given, row.last, calls + 1
        assert(calls < 30)
      until place == pg.null
      return given
    end
    assert.equal(4, pass(3))
    assert.equal("DEV-A 1 4, DEV-B 1 4, DEV-C - 4", whose())
    assert.equal(0, pass(1))
    s:query "update download_history set created_at = '2026-01-01' where user_id is null"
    assert.equal(0, pass(2)) -- all of one moment, and nobody's
    database.migrate(conninfo)
    s:query("update devices set user_id = $1", { other })
    assert.equal(4, pass(1000))
    assert.equal("DEV-A 1 4, DEV-B 1 4, DEV-C 2 4", whose())
  end)

  it("pin the search_path of every function and revoke it from public", function()
    local conninfo = support.database "pinned"
    database.migrate(conninfo)
    local s = session(conninfo)
    -- Five become part of what asks them, which a path of their own would prevent, and one is a part of
    -- functions that pin it: nobody's rights are lent with them, nobody else may call them, and every name in them is
    -- qualified or bound.
    assert.same({ "ate_file_fault", "ate_json_time", "ate_judge", "ate_quick", "ate_standing", "ate_viewer" }, s:value [[
      jsonb_agg(p.proname order by p.proname) from pg_proc p
      where p.pronamespace = 'public'::regnamespace and not coalesce(p.proconfig::text, '') ~ 'search_path']])
    assert.equal(0, s:value [[count(*) from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where p.pronamespace = 'public'::regnamespace and p.proname in ('ate_file_fault', 'ate_json_time',
        'ate_judge', 'ate_quick', 'ate_standing')
        and (p.prosecdef or a.grantee <> p.proowner)]])
    assert.equal(0, s:value [[count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
      and not relrowsecurity]])
  end)
end)
