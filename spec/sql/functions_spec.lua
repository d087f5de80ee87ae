local database = require "spec.sql.database"
local pg = require "atelier.pg"

describe("the functions for users", function()
  local conninfo, s

  setup(function()
    conninfo = database.fresh()
  end)

  before_each(function()
    s = database.begin(conninfo)
  end)

  after_each(function()
    database.finish(s)
  end)

  it("have the names and types of the contract", function()
    local expected = {
      "claim_ate_generations(worker_id text, batch_size integer DEFAULT 1, lease interval DEFAULT '00:01:00'::interval, "
        .. "only_queue_id uuid DEFAULT NULL::uuid)",
      "complete_ate_generation(queue_id uuid, file_path text, file_size bigint, checksum text, encryption_key_hash text, "
        .. "attempt integer DEFAULT NULL::integer, generated_variables jsonb DEFAULT NULL::jsonb)",
      "complete_ate_generations(jobs jsonb)",
      "fail_ate_generation(queue_id uuid, error_message text, attempt integer DEFAULT NULL::integer, "
        .. "permanent boolean DEFAULT false, retry_after interval DEFAULT NULL::interval)",
      "get_device_plan_info(device_hash text)",
      "get_download_info(device_hash text)",
      "log_download(ate_file_id uuid, download_ip inet, user_agent text, bytes_downloaded bigint, "
        .. "status text DEFAULT 'completed'::text, reached_end boolean DEFAULT true)",
      "queue_ate_generation(device_hash text, template_name text DEFAULT 'smartgram'::text, priority integer DEFAULT 5)",
      "release_ate_generations(worker_id text)",
      "renew_ate_lease(worker_id text, lease interval DEFAULT '00:01:00'::interval)",
    }
    for _, signature in ipairs(expected) do
      assert.equal(signature, s:value([[p.proname || '(' || pg_get_function_arguments(p.oid) || ')' from pg_proc p
        where p.proname = $1]], { signature:match "^[%w_]+" }))
    end
  end)

  it("tell a device's plan", function()
    local id = s:device { hash = "PLAN", plan = "pro" }
    for _, call in ipairs { "get_device_plan_info('PLAN')", "get_device_plan_info(device_hash => 'PLAN')" } do
      local row = s:one("select *, license_expires_at > now() + interval '29 days' as fits from " .. call)
      assert.equal(id, row.device_id)
      assert.equal("pro", row.plan_name)
      assert.same({ "timeline", "follow", "unfollow", "target", "video_training", "advanced_analysis" }, row.plan_tools)
      assert.is_true(row.is_valid)
      assert.is_true(row.fits)
    end
    assert.equal(0, #s:query "select * from get_device_plan_info('NOBODY')")
    assert.equal(0, #s:query "select * from get_device_plan_info(null)")
  end)

  it("judge by device, subscription, licence and trial", function()
    local cases = {
      { nil, hash = "E0" },
      { "device_not_active", hash = "E1", status = "registered" },
      { "device_not_active", hash = "E2", status = "suspended" },
      { "no_subscription", hash = "E3", subscription = false },
      { "subscription_not_active", hash = "E4", subscription = "pending" },
      { "no_licence", hash = "E5", licence = false },
      { "licence_invalid", hash = "E6", valid = false },
      { "licence_expired", hash = "E7", licence = "-1 second" },
      { "trial_ended", hash = "E8", status = "trial", trial = "-1 second" },
      { "trial_ended", hash = "E9", status = "trial" },
      { nil, hash = "E10", status = "trial", trial = "1 day", subscription = false, licence = false },
      { nil, hash = "E11", status = "trial", trial = "1 day", subscription = "pending", plan = "max", licence = false },
    }
    for i, case in ipairs(cases) do
      case.user = 1
      s:query "savepoint one"
      s:device(case)
      local info = s:one("select * from get_device_plan_info($1)", { case.hash })
      assert.equal(case[1] == nil, info.is_valid, i)
      if case[1] then
        local state, _, problem = s:refused("select queue_ate_generation($1)", { case.hash })
        assert.equal("AT002", state)
        assert.equal(case[1], problem.detail)
        assert.is_string(problem.hint)
      end
      if case.hash == "E11" then assert.equal("max", info.plan_name) end
      if case.hash == "E10" then assert.equal("starter", info.plan_name) end
      s:query "rollback to one"
    end
  end)

  it("take a licence without an end as one for ever", function()
    local id = s:device { hash = "EVER", licence = false }
    s:query("insert into licenses (device_id) values ($1)", { id })
    local info = s:one "select * from get_device_plan_info('EVER')"
    assert.is_true(info.is_valid)
    assert.equal(pg.null, info.license_expires_at)
  end)

  it("count devices by age, each against its own plan", function()
    for n = 1, 4 do
      s:device { hash = "RANK-" .. n, user = 2, plan = n == 4 and "max" or "pro", created = ("2026-01-0%d"):format(n) }
    end
    s:device { hash = "RANK-0", user = 2, plan = "max", created = "2025-12-31" }
    local function valid()
      return s:value [[string_agg(hash, ' ' order by hash) from (
        select 'RANK-' || n as hash from generate_series(0, 4) n) d, get_device_plan_info(hash) i where i.is_valid]]
    end
    assert.equal("RANK-0 RANK-1 RANK-2 RANK-4", valid())
    -- One that is not entitled takes no place.
    s:query "update devices set status = 'suspended' where device_hash = 'RANK-1'"
    assert.equal("RANK-0 RANK-2 RANK-3 RANK-4", valid())
  end)

  it("judge many devices as they judge each, and leave the session's settings alone", function()
    s:device { hash = "ALONE", user = 2, plan = "max" }
    s:query [[insert into devices (user_id, device_hash, status, trial_ends_at, created_at)
      select ('00000000-0000-0000-0000-' || lpad((1 + n % 9)::text, 12, '0'))::uuid, 'CROWD-' || n, 'trial',
        now() + interval '1 day', now() + n * interval '1 second' from generate_series(1, 150) n]]
    -- The first of each user is within its plan; for user 2 that is ALONE.
    local many = s:one "select count(*) as n from ate_entitlement(array(select id from devices)) where entitled"
    assert.equal(9, many.n)
    assert.equal(0, s:value [[count(*) from (
      select e.* from ate_entitlement(array(select id from devices)) e
      except select e.* from devices d cross join lateral ate_entitlement(array[d.id]) e) x]])
    assert.equal("auto on", s:value "current_setting('plan_cache_mode') || ' ' || current_setting('enable_seqscan')")
    assert.equal(1, #s:query [[select e.* from devices d cross join lateral ate_entitlement(array[d.id, d.id, null]) e
      where d.device_hash = 'ALONE']])
  end)

  it("queue a job, and give the same one again", function()
    s:device { hash = "Q" }
    s:clear()
    local first = s:value "queue_ate_generation('Q')"
    assert.equal(first, s:value "queue_ate_generation('Q', 'smartgram', 2)")
    assert.equal(first, s:value "queue_ate_generation(priority => 7, device_hash => 'Q', template_name => 'smartgram')")
    local row = s:one "select * from file_generation_queue"
    assert.equal("queued", row.status)
    assert.equal(2, row.priority)
    assert.equal(0, row.retry_count)
    assert.equal(3, row.max_retries)
  end)

  it("refuse with a code and a reason each", function()
    s:device { hash = "R" }
    s:query "insert into ate_templates (name, version, template_path, is_active) values ('off', '1', 'templates/off.at/', false)"
    for _, case in ipairs {
      { "AT001", "unknown_device", "'NOBODY'" }, { "AT001", "unknown_device", "null" },
      { "AT003", "unknown_template", "'R', 'nothing'" }, { "AT003", "unknown_template", "'R', 'off'" },
      { "AT003", "unknown_template", "'R', null" },
      { "AT004", "bad_priority", "'R', 'smartgram', 0" }, { "AT004", "bad_priority", "'R', 'smartgram', 11" },
      { "AT004", "bad_priority", "'R', 'smartgram', null" },
    } do
      s:query "savepoint one"
      local state, message, problem = s:refused("select queue_ate_generation(" .. case[3] .. ")")
      assert.equal(case[1], state)
      assert.equal(case[2], problem.detail)
      assert.matches("queue_ate_generation: ", message, 1, true)
      s:query "rollback to one"
    end
  end)

  it("refuse a device hash that is no good for a path", function()
    for _, hash in ipairs { "../etc", ".hidden", "a b", "a/b", ("x"):rep(129) } do
      s:query "savepoint one"
      s:device { hash = hash }
      assert.equal(0, s:value "count(*) from file_generation_queue where device_id = (select id from devices limit 1)")
      local _, _, problem = s:refused("select queue_ate_generation($1)", { hash })
      assert.equal("bad_device_hash", problem.detail)
      s:query "rollback to one"
    end
  end)

  it("show a download", function()
    s:device { hash = "D", plan = "max" }
    assert.same({ ate_file_id = pg.null, filename = pg.null, file_size_bytes = pg.null, expires_at = pg.null,
      download_count = 0, is_ready = false }, s:one "select * from get_download_info('D')")
    local file = s:complete(s:one "select * from claim_ate_generations('w')")
    local row = s:one "select * from get_download_info(device_hash => 'D')"
    assert.equal(file, row.ate_file_id)
    assert.matches("^D_%d+%.ate$", row.filename)
    assert.equal(1000, row.file_size_bytes)
    assert.is_true(row.is_ready)
    -- After a downgrade the old file has tools that the plan has not.
    s:query "update subscriptions set plan_id = 'starter'"
    assert.is_false(s:value "is_ready from get_download_info('D')")
    s:query "update subscriptions set plan_id = 'max'"
    s:query "update licenses set is_valid = false"
    assert.is_false(s:value "is_ready from get_download_info('D')")
    s:query "update licenses set is_valid = true"
    s:query "update ate_files set expires_at = now() - interval '1 second'"
    assert.is_false(s:value "is_ready from get_download_info('D')")
  end)

  it("log downloads and count those that reach the end", function()
    s:device { hash = "L" }
    local file = s:complete(s:one "select * from claim_ate_generations('w')")
    s:query("select log_download($1, '192.0.2.1', 'agent', 1000)", { file })
    s:query("select log_download($1, '::1', 'agent', 10, reached_end => false)", { file })
    s:query("select log_download($1, null, null, 0, 'failed')", { file })
    assert.equal(1, s:value "download_count from get_download_info('L')")
    assert.equal(3, s:value "count(*) from download_history")
    s:query "savepoint one"
    assert.equal("AT006", (s:refused "select log_download(gen_random_uuid(), null, null, 1)"))
    s:query "rollback to one"
    assert.equal("AT008", (s:refused("select log_download($1, null, null, 1, 'odd')", { file })))
    s:query "rollback to one"
    assert.equal("AT008", (s:refused("select log_download($1, null, null, -1)", { file })))
    s:query "rollback to one"
  end)
end)
