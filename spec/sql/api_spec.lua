local database = require "spec.sql.database"
local json = require "atelier.json"
local pg = require "atelier.pg"

local CLAIMS = '{"sub": "00000000-0000-0000-0000-00000000000%d", "role": "authenticated"}'

describe("what the API asks of the database", function()
  local conninfo, s

  -- As user n, within the spec's own transaction.
  local function as(n, f)
    s:query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
      { CLAIMS:format(n) })
    local results = table.pack(f())
    s:query "select set_config('role', 'none', true)"
    return table.unpack(results, 1, results.n)
  end

  local function status(hash, n, template)
    return as(n or 1, function()
      return s:one("select * from ate_status($1, $2)", { hash, template or "smartgram" })
    end)
  end

  local function download(id, n)
    return as(n or 1, function()
      return s:one("select * from ate_download($1)", { id })
    end)
  end

  local function claim(size)
    return s:query("select * from claim_ate_generations('w', $1)", { size or 10 })
  end

  -- The reason for a device without a file, and with one: the answers must agree with ate_entitlement, whichever way
  -- the database took to them.
  local function judged(hash)
    return s:value("e.reason from ate_entitlement(array(select id from devices where device_hash = $1)) e", { hash })
  end

  setup(function()
    conninfo = database.fresh()
  end)

  before_each(function()
    s = database.begin(conninfo)
  end)

  after_each(function()
    database.finish(s)
  end)

  describe("ate_status", function()
    it("follows a job from the request to the file", function()
      s:device { hash = "A", plan = "pro" }
      local row = status "A"
      assert.same({ false, "no_file", pg.null, "queued", 1 },
        { row.is_ready, row.reason, row.ate_file_id, row.state, row.position })
      local job = claim()[1]
      row = status "A"
      assert.same({ job.queue_id, "processing", "claimed", pg.null, 1 },
        { row.queue_id, row.state, row.stage, row.position, row.attempt })
      local file = s:complete(job)
      row = status "A"
      assert.same({ true, pg.null, file, "completed", 1000, database.SHA, 0 },
        { row.is_ready, row.reason, row.ate_file_id, row.state, row.file_size, row.checksum, row.download_count })
      assert.matches("^A_%d+%.ate$", row.filename)
      s:query "select trim_ate_queue(10, '0 seconds')"
      local former = status "A"
      assert.same({ job.queue_id, "completed" }, { former.queue_id, former.state })
    end)

    it("shows a failure with its reason, and a cancelled job as one", function()
      s:device { hash = "F" }
      s:query("select fail_ate_generation($1, 'script_error: line 3', permanent => true)", { claim()[1].queue_id })
      local row = status "F"
      assert.same({ "failed", "script_error", "script_error: line 3" }, { row.state, row.error_code, row.error_message })
      local id = s:value "queue_ate_generation('F')"
      s:query("select cancel_ate_generation($1, 'enough')", { id })
      row = status "F"
      assert.same({ id, "failed", "cancelled" }, { row.queue_id, row.state, row.error_code })
      -- What is redriven is the newest again.
      local later = s:value "queue_ate_generation('F')"
      s:query("select cancel_ate_generation($1)", { later })
      assert.equal(later, status("F").queue_id)
      assert.equal(id, s:value("retry_ate_generation($1)", { id }))
      assert.same({ id, "queued" }, { status("F").queue_id, status("F").state })
    end)

    it("gives no row for a foreign and an unknown device, and all to the service", function()
      s:device { hash = "MINE", user = 1 }
      assert.is_table(status("MINE", 1))
      assert.is_nil(status("MINE", 2))
      assert.is_nil(status("NOBODY", 1))
      assert.equal(1, #s:query "select * from ate_status('MINE')")
      assert.equal(pg.null, status("MINE", 1, "nothing").template_id)
      assert.equal(pg.null, status("MINE", 1, "nothing").queue_id)
      assert.equal("no_template", status("MINE", 1, "nothing").reason)
    end)

    it("is the same as a JSON object's members, whatever they hold and wherever the session is", function()
      local function told(n, template)
        return as(n, function()
          return s:value("ate_status_members('J', $1)", { template or "smartgram" })
        end)
      end
      local device = s:device { hash = "J", plan = "pro", user = 1 }
      local name = '"quoted" \\ back\tand é.ate'
      s:query([[insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum,
          encryption_key_hash, expires_at, tools)
        select $1, id, $2, 'x', 1000, repeat('a', 64), repeat('b', 64), '2999-01-02 03:04:05.25+09', '[]'
        from ate_templates]], { device, name })
      s:query "delete from file_generation_queue"
      s:query([[insert into file_generation_queue (device_id, template_id, status, error_code, error_message,
          created_at)
        select $1, id, 'failed', 'jail_error', $2, '2026-01-02 03:04:05Z' from ate_templates]], { device, name })
      s:query "select set_config('timezone', 'Asia/Tokyo', true), set_config('datestyle', 'German', true)"
      local text = told(1)
      s:query "select set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true)"
      assert.matches('^"is_ready":true,"reason":null,"ate_file_id":"[%x-]+","filename":', text)
      local members, row = assert(json.decode("{" .. text .. "}")), status "J"
      assert.same({ name, 1000, "2999-01-01T18:04:05.25Z", 0 },
        { members.filename, members.file_size, members.expires_at, members.download_count })
      assert.same({ name, 1000, "2999-01-01T18:04:05.25Z", 0 },
        { row.filename, row.file_size, row.expires_at, row.download_count })
      assert.same({ "failed", json.null, { code = "jail_error", message = name }, "2026-01-02T03:04:05Z" },
        { members.job.state, members.job.position, members.job.error, members.job.queued_at })
      assert.same({ "failed", pg.null, "jail_error", name, "2026-01-02T03:04:05Z" },
        { row.state, row.position, row.error_code, row.error_message, row.queued_at })
      s:query "update ate_files set expires_at = 'infinity'"
      assert.equal("infinity", json.decode("{" .. told(1) .. "}").expires_at)
      assert.is_true(status "J".is_ready)
      assert.equal(pg.null, told(2))
      assert.matches('^"is_ready":false,"reason":"no_template",', told(1, "nothing"))
    end)

    it("says what entitlement says, and agrees with a download", function()
      local cases = {
        { hash = "C0", plan = "pro" }, { hash = "C1", status = "suspended" }, { hash = "C2", subscription = false },
        { hash = "C3", subscription = "cancelled" }, { hash = "C4", licence = false }, { hash = "C5", valid = false },
        { hash = "C6", licence = "-1 second" }, { hash = "C7", status = "trial", trial = "-1 second" },
        { hash = "C8", status = "trial", trial = "1 day", subscription = false, licence = false },
        { hash = "C9", plan = "max", user = 2 },
      }
      for _, case in ipairs(cases) do
        s:query "savepoint one"
        local id = s:device { hash = case.hash, user = case.user, plan = "starter" }
        local file = s:complete(claim()[1])
        s:query("delete from subscriptions where device_id = $1", { id })
        s:query("delete from licenses where device_id = $1", { id })
        s:query("update devices set status = $2, trial_ends_at = now() + $3::interval where id = $1",
          { id, case.status or "active", case.trial or pg.null })
        if case.subscription ~= false then
          s:query("insert into subscriptions (device_id, status, plan_id) values ($1, $2, $3)",
            { id, case.subscription or "active", case.plan or "starter" })
        end
        if case.licence ~= false then
          s:query("insert into licenses (device_id, is_valid, expires_at) values ($1, $2, now() + $3::interval)",
            { id, case.valid ~= false, case.licence or "30 days" })
        end
        s:query "update ate_files set tools = '[\"timeline\"]'"
        local row, got, want = status(case.hash, case.user), download(file, case.user), judged(case.hash)
        assert.equal(want, row.reason, case.hash)
        assert.equal(want, got.reason, case.hash)
        assert.equal(want == pg.null, row.is_ready)
        assert.equal(want == pg.null and "ok" or "gone", got.verdict)
        assert.equal(row.is_ready, s:value("is_ready from get_download_info($1)", { case.hash }))
        s:query "rollback to one"
      end
    end)

    it("counts devices by rank, former plan ids and unknown ones as ate_entitlement does", function()
      for n = 1, 4 do
        s:device { hash = "R" .. n, user = 3, plan = "pro", created = ("2026-01-0%d"):format(n) }
      end
      local reasons = {}
      for n = 1, 4 do
        reasons[n] = status("R" .. n, 3).reason
        assert.equal(judged("R" .. n) == pg.null and "no_file" or judged("R" .. n), reasons[n])
      end
      assert.same({ "no_file", "no_file", "no_file", "too_many_devices" }, reasons)
      s:query "update devices set status = 'suspended' where device_hash = 'R1'"
      assert.equal("no_file", status("R4", 3).reason)
      s:query "update subscriptions set plan_id = null"
      s:query "delete from devices where device_hash in ('R1', 'R3', 'R4')"
      assert.equal("no_file", status("R2", 3).reason)
      s:query "update plans set name = 'entry' where name = 'starter'"
      assert.equal("no_plan", status("R2", 3).reason)
    end)

    it("knows a device of nobody, and a plan that allows none", function()
      s:query [[insert into devices (device_hash, status, trial_ends_at)
        values ('NOBODYS', 'trial', now() + interval '1 day')]]
      assert.equal("no_file", s:value "reason from ate_status('NOBODYS')")
      s:query "update plans set max_devices = 0"
      assert.equal("too_many_devices", s:value "reason from ate_status('NOBODYS')")
      assert.equal("too_many_devices", judged "NOBODYS")
    end)

    it("tells the place in the line, however long it is", function()
      s:query [[insert into devices (device_hash, status, trial_ends_at)
        select 'LINE-' || n, 'trial', now() + interval '1 day' from generate_series(1, 1200) n]]
      local id = s:device { hash = "LAST" }
      s:query("update file_generation_queue set run_after = now() + interval '1 hour' where device_id = $1", { id })
      assert.equal(1000, status("LAST").position)
      s:query("update file_generation_queue set run_after = now() - interval '1 hour' where device_id = $1", { id })
      assert.equal(1, status("LAST").position)
    end)
  end)

  describe("ate_download", function()
    local id, file

    before_each(function()
      id = s:device { hash = "D", plan = "max" }
      file = s:complete(claim()[1])
    end)

    it("gives what a response needs", function()
      local row = download(file)
      assert.same({ "ok", pg.null, pg.null, id, "D", "smartgram", 1000, database.SHA, "ate1" }, { row.verdict, row.reason,
        row.busy, row.device_id, row.device_hash, row.template, row.file_size, row.checksum, row.container })
      assert.matches("^generated/D/smartgram_", row.file_path)
      assert.equal("00000000-0000-0000-0000-000000000001", row.user_id)
    end)

    it("gives no row for a foreign and an unknown file", function()
      assert.is_nil(download(file, 2))
      assert.is_nil(download("99999999-9999-9999-9999-999999999999"))
      assert.is_nil(download(pg.null))
      assert.equal(1, #s:query("select * from ate_download($1)", { file }))
    end)

    it("tells what comes back from what is gone", function()
      local cases = {
        { "pending", "pending", "update ate_files set generation_status = 'pending'" },
        { "pending", "file_inactive", "update ate_files set is_active = false" },
        { "expired_renewed", "file_expired", "update ate_files set expires_at = now() - interval '1 day'" },
        { "expired_renewed", "file_expired",
          "update ate_files set expires_at = now() - interval '1 day', is_active = false" },
        { "gone", "beyond_plan", "update subscriptions set plan_id = 'starter'" },
        { "gone", "device_not_active", "update devices set status = 'suspended'" },
        { "gone", "licence_expired", "update licenses set expires_at = now() - interval '1 day'" },
        { "gone", "subscription_not_active", "update subscriptions set status = 'cancelled'" },
      }
      for _, case in ipairs(cases) do
        s:query "savepoint one"
        s:query(case[3])
        local row = download(file)
        assert.same({ case[1], case[2] }, { row.verdict, row.reason })
        assert.same({ false, case[2] }, { status("D").is_ready, status("D").reason })
        s:query "rollback to one"
      end
      -- After an upgrade the old file is served until the new one is there.
      s:query "update subscriptions set plan_id = 'pro'"
      s:query "update ate_files set tools = '[\"timeline\"]'"
      assert.same({ "ok", pg.null }, { download(file).verdict, download(file).busy })
      s:query "update ate_files set is_active = false"
      assert.same({ "pending", true }, { download(file).verdict, download(file).busy })
      s:query "update file_generation_queue set status = 'processing', lease_until = now() where status = 'queued'"
      assert.is_true(download(file).busy)
      s:clear()
      assert.is_false(download(file).busy)
    end)
  end)

  describe("request_ate_generation", function()
    local function request(n, ...)
      local args = { ... }
      return as(n, function()
        return s:one("select * from request_ate_generation($1, $2, $3)", args)
      end)
    end

    it("tells a new job from one that is queued, and queues beside one that runs", function()
      s:device { hash = "Q" }
      s:clear()
      local first = request(1, "Q", "smartgram", 5)
      assert.is_true(first.created)
      local again = request(1, "Q", "smartgram", 2)
      assert.same({ queue_id = first.queue_id, created = false }, again)
      assert.equal(2, s:value "priority from file_generation_queue")
      claim()
      local beside = request(1, "Q", "smartgram", 5)
      assert.is_true(beside.created)
      assert.are_not.equal(first.queue_id, beside.queue_id)
      assert.equal(beside.queue_id, s:value "queue_ate_generation('Q')")
    end)

    it("tells it to another session too", function()
      s:device { hash = "Q2" }
      s:clear()
      s:query "commit"
      local first = s:one "select * from request_ate_generation('Q2')"
      local other = database.session(conninfo)
      assert.same({ queue_id = first.queue_id, created = false }, other:one "select * from request_ate_generation('Q2')")
      other:query "delete from devices where device_hash = 'Q2'"
      other:close()
      s:query "begin"
    end)

    it("refuses as queue_ate_generation does", function()
      s:device { hash = "MINE" }
      s:device { hash = "POOR", subscription = false }
      for _, case in ipairs { { "AT001", 2, "MINE", "smartgram", 5 }, { "AT001", 1, "NONE", "smartgram", 5 },
        { "AT002", 1, "POOR", "smartgram", 5 }, { "AT003", 1, "MINE", "none", 5 }, { "AT004", 1, "MINE", "smartgram", 11 } } do
        s:query "savepoint one"
        s:query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
          { CLAIMS:format(case[2]) })
        assert.equal(case[1], (s:refused("select request_ate_generation($1, $2, $3)", { case[3], case[4], case[5] })))
        s:query "rollback to one"
      end
    end)
  end)

  it("shows users their own jobs, as they are now", function()
    for n = 1, 3 do
      s:device { hash = "J" .. n, user = n < 3 and 1 or 2, plan = "pro" }
    end
    local rows = claim(2)
    local file = s:complete(rows[1])
    local ids = s:value "array_agg(id)::text from file_generation_queue"
    local seen = as(1, function()
      return s:query "select * from ate_present_jobs()"
    end)
    assert.equal(2, #seen)
    local by_hash = {}
    for _, row in ipairs(seen) do
      by_hash[row.device_hash] = row
    end
    assert.same({ "completed", file, "smartgram" }, { by_hash.J1.state, by_hash.J1.ate_file_id, by_hash.J1.template })
    assert.same({ "processing", "claimed" }, { by_hash.J2.state, by_hash.J2.stage })
    local present = as(2, function()
      return s:query "select * from ate_present_jobs()"
    end)
    assert.equal(1, #present)
    assert.same({ "J3", "queued", 1 }, { present[1].device_hash, present[1].state, present[1].position })
    assert.equal(1, #as(1, function() return s:query "select * from ate_present_jobs(1)" end))
    assert.equal(0, #as(3, function() return s:query "select * from ate_present_jobs()" end))
    -- Whom a notification concerns.
    local owners = s:query("select * from ate_job_owners($1::uuid[]) order by user_id", { ids })
    assert.equal(3, #owners)
    assert.equal("00000000-0000-0000-0000-000000000002", owners[3].user_id)
  end)

  describe("operators", function()
    it("see the queue by state, priority and age", function()
      for n = 1, 4 do
        s:device { hash = "O" .. n, user = n }
      end
      local rows = claim(2)
      s:query("select fail_ate_generation($1, 'x', permanent => true)", { rows[1].queue_id })
      s:query("select fail_ate_generation($1, 'x', retry_after => '1 hour')", { rows[2].queue_id })
      claim(1)
      local seen = {}
      for _, row in ipairs(s:query "select * from ate_queue_summary()") do
        seen[row.state .. " " .. tostring(row.priority ~= pg.null and row.priority or "")] = { row.jobs, row.ready }
        assert.is_true(row.oldest_seconds == pg.null or row.oldest_seconds >= 0)
      end
      assert.same({ ["queued 5"] = { 2, 1 }, ["processing 5"] = { 1, 0 }, ["failed "] = { 1, 0 },
        ["completed "] = { 0, 0 } }, seen)
    end)

    it("see throughput and latency by the minute, wherever the rows are, and once counted for good", function()
      for n = 1, 4 do
        s:device { hash = "S" .. n, user = n }
      end
      for _, row in ipairs(claim(3)) do
        s:complete(row)
      end
      s:query("select fail_ate_generation($1, 'x', permanent => true)", { claim(1)[1].queue_id })
      s:query [[update file_generation_queue set finished_at = date_trunc('minute', now()) - interval '2 minutes' + interval '9 seconds',
        claimed_at = date_trunc('minute', now()) - interval '2 minutes' + interval '8 seconds',
        created_at = date_trunc('minute', now()) - interval '2 minutes' + interval '5 seconds']]
      s:query [[update file_generation_queue set finished_at = finished_at + interval '1 second'
        where id = (select max(id::text)::uuid from file_generation_queue where status = 'completed')]]
      s:query "select trim_ate_queue(1, '0 seconds')"
      local function busy()
        return s:one [[select *, minute = date_trunc('minute', now()) - interval '2 minutes' as right
          from ate_series(10) where completed > 0]]
      end
      local row
      repeat -- a call counts for a second at most
        row = busy()
      until row
      assert.same({ 3, 1, true }, { row.completed, row.failed, row.right })
      assert.same({ 3000, 1000, 4000, 3000 }, { row.wait_p50, row.run_p50, row.total_p50, row.wait_p95 })
      assert.near(1900, row.run_p95, 1)
      -- A minute that was kept is not counted again.
      s:query "delete from file_generation_queue"
      s:query "delete from file_generation_history"
      assert.equal(3, busy().completed)
    end)

    it("see workers, whether they live, and what they hold", function()
      s:device { hash = "W1", user = 1 }
      s:device { hash = "W2", user = 2 }
      local one = s:query "select * from claim_ate_generations('host:1:one', 1)"[1]
      s:query "insert into ate_workers (worker_id, lock_held) values ('host:2:dead', true)"
      s:query "insert into ate_workers (worker_id, last_seen) values ('host:3:silent', now() - interval '1 hour')"
      local seen = {}
      for _, row in ipairs(s:query "select * from ate_worker_list()") do
        seen[row.worker_id] = { row.alive, row.jobs, row.queue_ids }
      end
      assert.same({ true, 1, { one.queue_id } }, seen["host:1:one"])
      assert.same({ false, 0, {} }, seen["host:2:dead"])
      assert.same({ false, 0, {} }, seen["host:3:silent"])
    end)

    it("turn the pages of the jobs, of each state and of all, without missing or repeating one", function()
      for n = 1, 7 do
        s:device { hash = "P" .. n, user = n }
      end
      for i, row in ipairs(claim(6)) do
        if i <= 2 then
          s:complete(row)
        elseif i <= 4 then
          s:query("select fail_ate_generation($1, 'x', permanent => true)", { row.queue_id })
        end
      end
      s:query "select queue_ate_generation('P1'), queue_ate_generation('P2')"
      for state, want in pairs { queued = 3, processing = 2, completed = 2, failed = 2, cancelled = 0, any = 9 } do
        local at, id, seen, count = pg.null, pg.null, {}, 0
        while true do
          local page = s:query("select * from ate_job_list($1, null, $2, $3, 1)",
            { state ~= "any" and state or pg.null, at, id })
          if #page == 0 then break end
          assert.is_nil(seen[page[1].queue_id], state)
          assert.equal(state ~= "any" and state or page[1].state, page[1].state)
          at, id, count = page[1].at, page[1].queue_id, count + 1
          seen[id] = true
        end
        assert.equal(want, count, state)
      end
      assert.equal(2, #s:query "select * from ate_job_list(null, 'P1')")
      assert.equal(1, #s:query "select * from ate_job_list('completed', 'P1')")
      assert.equal(0, #s:query "select * from ate_job_list(null, 'NOBODY')")
      s:query "savepoint one"
      assert.equal("AT008", (s:refused "select * from ate_job_list('x'' or true --')"))
      s:query "rollback to one"
      assert.equal(0, #s:query "select * from ate_job_list(null, 'x'' or true --')")
    end)

    it("trim the downloads in batches", function()
      s:device { hash = "T" }
      local file = s:complete(claim()[1])
      for _ = 1, 3 do
        s:query("select log_download($1, null, null, 1)", { file })
      end
      s:query [[update download_history set created_at = now() - interval '91 days'
        where id in (select id from download_history limit 2)]]
      assert.equal(1, s:value "trim_ate_downloads(1)")
      assert.equal(1, s:value "trim_ate_downloads(10)")
      assert.equal(0, s:value "trim_ate_downloads(10)")
      assert.equal(1, s:value "count(*) from download_history")
    end)
  end)

  it("is closed to those whom it is not for", function()
    local for_users = { "ate_status('X')", "ate_status_members('X')", "ate_download(gen_random_uuid())",
      "request_ate_generation('X')", "ate_present_jobs()" }
    local for_service = { "ate_job_owners('{}')", "ate_queue_summary()", "ate_series()", "ate_worker_list()",
      "ate_job_list()", "trim_ate_downloads()", "ate_log_downloads('[]')" }
    local for_nobody = { "ate_place(now())", "ate_person()", "ate_json_time(now())", "ate_measure(now(), now())",
      "ate_quick(gen_random_uuid(), now())", "ate_ranked('{}')", "ate_request('X', 'smartgram', 5)", "ate_enqueue_jobs('{}', '{}', 5, 'x')" }
    local function refuses(role, calls)
      for _, call in ipairs(calls) do
        s:query "savepoint one"
        s:query("select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)",
          { CLAIMS:format(1), role })
        assert.equal("42501", (s:refused("select " .. call)), role .. " " .. call)
        s:query "rollback to one"
      end
    end
    refuses("anon", for_users)
    for _, role in ipairs { "anon", "authenticated" } do
      refuses(role, for_service)
      refuses(role, for_nobody)
      refuses(role, { "* from ate_queue_minutes" })
    end
    refuses("service_role", for_nobody)
    s:query "select set_config('role', 'service_role', true)"
    for _, call in ipairs(for_service) do
      s:query("select * from " .. call)
    end
  end)

  it("answers a user without a subject nothing", function()
    s:device { hash = "SUBLESS" }
    s:query [[insert into devices (device_hash, status, trial_ends_at) values ('FREE', 'trial', now() + interval '1 day')]]
    s:query [[select set_config('request.jwt.claims', '{"role": "authenticated"}', true), set_config('role', 'authenticated', true)]]
    for _, call in ipairs { "ate_status('SUBLESS')", "ate_status('FREE')", "ate_present_jobs()" } do
      assert.equal(0, #s:query("select * from " .. call))
    end
  end)

  it("keeps JSON lists as lists", function()
    s:device { hash = "L", plan = "max" }
    assert.equal("[]", json.encode(s:one("select * from claim_ate_generations('w')").required_variables))
  end)
end)
