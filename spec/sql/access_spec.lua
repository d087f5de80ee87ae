local database = require "spec.sql.database"
local pg = require "atelier.pg"

local USER = '{"sub": "00000000-0000-0000-0000-00000000000%d", "role": "%s"}'
local TABLES = { "ate_files", "ate_file_versions", "download_history", "file_generation_queue", "file_generation_history" }

describe("access", function()
  local conninfo, s

  local function user(n, f, role)
    s:as("authenticated", USER:format(n, role or "authenticated"), f)
  end

  setup(function()
    conninfo = database.fresh()
    local c = database.session(conninfo)
    for n = 1, 2 do
      c:device { hash = "DEV-" .. n, user = n, plan = "pro" }
    end
    -- Each user gets a file, a former one, a download, a finished job in the queue and in the history, and a queued one.
    for round = 1, 3 do
      for _, job in ipairs(c:query "select * from claim_ate_generations('w', 10)") do
        local file = c:complete(job)
        c:query("select log_download($1, '192.0.2.1', 'agent', 1000)", { file })
      end
      if round == 1 then
        c:query "select trim_ate_queue(10, '0 seconds')"
      end
      c:query "select queue_ate_generation('DEV-1'), queue_ate_generation('DEV-2')"
    end
    c:close()
    collectgarbage()
  end)

  before_each(function()
    s = database.session(conninfo)
  end)

  after_each(function()
    database.close(s)
  end)

  it("shows users their own rows and no others", function()
    for n = 1, 2 do
      user(n, function()
        for _, name in ipairs(TABLES) do
          assert.is_true(s:value("count(*) from " .. name) > 0, name)
          assert.equal(0, s:value(([[count(*) from %s where device_id not in (select id from devices
            where device_hash = 'DEV-%d')]]):format(name, n)), name)
        end
        assert.equal(3, s:value "count(*) from plans")
        assert.equal(1, s:value "count(*) from ate_templates")
      end)
    end
    user(3, function()
      for _, name in ipairs(TABLES) do
        assert.equal(0, s:value("count(*) from " .. name), name)
      end
    end)
  end)

  it("leaves downloads with whose they were when the device changes hands", function()
    local function downloads(n)
      local count
      user(n, function()
        count = s:value "count(*) from download_history"
      end)
      return count
    end
    local before, other = downloads(1), downloads(3)
    assert.is_true(before > 0)
    assert.equal(0, other)
    s:query "update devices set user_id = '00000000-0000-0000-0000-000000000003' where device_hash = 'DEV-1'"
    assert.same({ before, 0 }, { downloads(1), downloads(3) })
    local file = s:value "id from ate_files where device_id = (select id from devices where device_hash = 'DEV-1')"
    s:query("select log_download($1, '192.0.2.3', 'agent', 1000)", { file })
    s:query("select ate_log_downloads($1)", { ([=[[{"id": "%s", "file": "%s", "ip": "192.0.2.4", "agent": "a",
      "status": "completed", "bytes": 1, "reached_end": true, "age": 0},
      {"id": "%s", "file": "%s", "person": "00000000-0000-0000-0000-000000000001", "ip": "192.0.2.5", "agent": "a",
      "status": "completed", "bytes": 1, "reached_end": true, "age": 0}]]=]):format(
      "00000000-0000-4000-8000-0000000000a1", file, "00000000-0000-4000-8000-0000000000a2", file) })
    assert.same({ before + 1, 2 }, { downloads(1), downloads(3) })
    s:query "update devices set user_id = '00000000-0000-0000-0000-000000000001' where device_hash = 'DEV-1'"
  end)

  it("lets users change nothing", function()
    for _, name in ipairs(TABLES) do
      for _, sql in ipairs { "delete from %s", "update %s set device_id = device_id", "insert into %s default values" } do
        user(1, function()
          assert.equal("42501", (s:refused(sql:format(name))))
        end)
      end
    end
    for _, name in ipairs { "ate_workers", "plan_aliases", "ate_template_versions" } do
      user(1, function()
        assert.equal("42501", (s:refused("select * from " .. name)))
      end)
    end
  end)

  it("gives anonymous callers nothing", function()
    for _, sql in ipairs { "select * from plans", "select * from ate_files", "select get_device_plan_info('DEV-1')",
      "select queue_ate_generation('DEV-1')", "select get_download_info('DEV-1')" } do
      s:as("anon", "{}", function()
        assert.equal("42501", (s:refused(sql)))
      end)
    end
  end)

  it("keeps foreign and unknown devices alike", function()
    user(1, function()
      assert.equal(1, #s:query "select * from get_device_plan_info('DEV-1')")
      assert.equal(1, #s:query "select * from get_download_info('DEV-1')")
      assert.is_string(s:value "queue_ate_generation('DEV-1')")
      assert.equal(0, #s:query "select * from get_device_plan_info('DEV-2')")
      assert.equal(0, #s:query "select * from get_download_info('DEV-2')")
    end)
    local seen = {}
    for _, hash in ipairs { "DEV-2", "NOBODY" } do
      user(1, function()
        local state, message, problem = s:refused("select queue_ate_generation($1)", { hash })
        seen[#seen + 1] = { state, message, problem.detail, problem.hint }
      end)
    end
    assert.same(seen[1], seen[2])
    assert.equal("AT001", seen[1][1])
  end)

  it("keeps the service's functions from users", function()
    for _, call in ipairs {
      "claim_ate_generations('w')", "complete_ate_generations('[]')", "release_ate_generations('w')",
      "postpone_ate_generations('w', '{}', '1 s', '')",
      "complete_ate_generation(gen_random_uuid(), 'a', 1, 'b', 'c')", "fail_ate_generation(gen_random_uuid(), 'x')",
      "renew_ate_lease('w')", "log_download(gen_random_uuid(), null, null, 1)", "rescue_ate_generations()",
      "cancel_ate_generation(gen_random_uuid())", "retry_ate_generation(gen_random_uuid())", "requeue_ate_files('k')",
      "publish_ate_template('a', '1', 'p', '[]', '[]', repeat('a', 64))", "expire_ate_files()", "trim_ate_queue()",
      "ate_entitlement('{}')", "ate_enqueue('{}', '{}', 5, 'x')", "ate_put_back('{}', 0, true, null, '', '')",
      "ate_find_device('DEV-2')", "ate_caller()", "ate_worker_tick('w')", "report_ate_generations('[]')",
    } do
      user(1, function()
        assert.equal("42501", (s:refused("select " .. call)), call)
      end)
    end
  end)

  it("does not believe claims about the role", function()
    user(1, function()
      assert.equal(0, #s:query "select * from get_device_plan_info('DEV-2')")
      assert.equal("42501", (s:refused "select claim_ate_generations('w')"))
    end, "service_role")
    -- A login that took no role on has the rights of neither, whatever its claims.
    local api = database.session((conninfo:gsub("user=postgres", "user=login_api")))
    api:query "begin"
    api:query("select set_config('request.jwt.claims', $1, true)", { USER:format(1, "service_role") })
    assert.equal("42501", (api:refused "select get_device_plan_info('DEV-1')"))
    api:query "rollback"
    api:close()
    -- Nor do a user's claims narrow the service.
    s:as("service_role", USER:format(1, "authenticated"), function()
      assert.equal(1, #s:query "select * from get_device_plan_info('DEV-2')")
    end)
  end)

  it("takes the login role where no role was set", function()
    local service = database.session((conninfo:gsub("user=postgres", "user=login_service")))
    assert.equal(1, #service:query "select * from get_device_plan_info('DEV-2')")
    assert.equal(0, #service:query "select * from claim_ate_generations('none', 1, only_queue_id => gen_random_uuid())")
    service:query "select release_ate_generations('none')"
    service:close()
    local person = database.session((conninfo:gsub("user=postgres", "user=login_user")))
    person:query "begin"
    person:query("select set_config('request.jwt.claims', $1, true)", { USER:format(2, "service_role") })
    assert.equal(1, #person:query "select * from get_device_plan_info('DEV-2')")
    assert.equal(0, #person:query "select * from get_device_plan_info('DEV-1')")
    person:query "rollback"
    person:close()
  end)

  it("tells only the owner the place in the line", function()
    local id = s:value "id from file_generation_queue where status = 'queued' and device_id = (select id from devices where device_hash = 'DEV-2')"
    user(1, function()
      assert.equal(pg.null, s:value("ate_queue_position($1)", { id }))
    end)
    user(2, function()
      assert.equal(2, s:value("ate_queue_position($1)", { id }))
    end)
  end)
end)
