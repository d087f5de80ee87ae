local database = require "spec.sql.database"
local json = require "atelier.json"
local pg = require "atelier.pg"

describe("the queue", function()
  local conninfo, s

  local function claim(worker, size, options)
    return s:query("select * from claim_ate_generations($1, $2" .. (options or "") .. ")", { worker or "w", size or 10 })
  end

  local function job(id)
    return s:one("select *, run_after - clock_timestamp() > interval '0' as waits from file_generation_queue where id = $1", { id })
  end

  local function member(row, change)
    local m = { queue_id = row.queue_id, attempt = row.attempt, file_size = 10, checksum = database.SHA,
      encryption_key_hash = database.SHA, file_path = "generated/x/" .. row.queue_id .. "_" .. row.attempt .. ".ate" }
    for key, value in pairs(change or {}) do
      m[key] = value
    end
    return m
  end

  local function complete(members)
    return s:query("select * from complete_ate_generations($1)", { pg.json(json.array(members)) })
  end

  local function refused(state, sql, params)
    s:query "savepoint refused"
    assert.equal(state, (s:refused(sql, params)))
    s:query "rollback to refused"
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

  it("gives a worker all that a build needs", function()
    local id = s:device { hash = "ONE", plan = "pro" }
    local row = claim("host:12:abc", 1)[1]
    assert.equal(id, row.device_id)
    assert.equal("ONE", row.device_hash)
    assert.equal(1, row.attempt)
    assert.equal(1, row.generation)
    assert.equal("smartgram", row.template_name)
    assert.equal("1.0.0", row.template_version)
    assert.equal("templates/smartgram.at/", row.template_path)
    assert.equal("autotouch", row.template_runtime)
    assert.equal("ate1", row.container)
    assert.equal(database.SHA, row.content_sha256)
    assert.equal("pro", row.plan_name)
    assert.equal(6, #row.plan_tools)
    assert.equal(0, row.retry_count)
    assert.equal(3, row.max_retries)
    assert.equal(5, row.priority)
    assert.equal("00000000-0000-0000-0000-000000000001", row.user_id)
    assert.same({}, row.generation_params)
    local worker = s:one "select * from ate_workers"
    assert.same({ "host", 12, true }, { worker.host, worker.pid, worker.lock_held })
    assert.equal("processing", job(row.queue_id).status)
    assert.equal("claimed", job(row.queue_id).stage)
    assert.equal(0, #claim())
  end)

  it("knows no job that was changed before it was queued", function()
    s:query "select pg_sleep(0.01)" -- the transaction began before
    s:device { hash = "DEV-TIMES", plan = "pro" }
    s:query "select queue_ate_generation('DEV-TIMES')"
    assert.equal(0, s:value "count(*) from file_generation_queue where updated_at < created_at")
    assert.is_true(s:value "count(*) > 0 from file_generation_queue")
  end)

  it("can be called by name and by position", function()
    s:device { hash = "ONE" }
    local row = s:one "select * from claim_ate_generations(worker_id => 'w', batch_size => 1, lease => '50 seconds')"
    assert.equal(1, s:value "renew_ate_lease(worker_id => 'w', lease => '90 seconds')")
    assert.equal("queued", s:value("fail_ate_generation(queue_id => $1, error_message => 'x', attempt => 1, permanent => false, retry_after => '1 hour')",
      { row.queue_id }))
    row = s:one("select * from claim_ate_generations('w', 1, '60 seconds', $1)", { row.queue_id })
    assert.equal(2, row.attempt)
    assert.is_string(s:value([[complete_ate_generation(queue_id => $1, file_path => 'generated/ONE/a.ate', file_size => 1,
      checksum => $2, encryption_key_hash => $2, attempt => 2, generated_variables => '{}')]], { row.queue_id, database.SHA }))
    assert.equal(0, s:value "release_ate_generations(worker_id => 'w')")
  end)

  it("refuses arguments that make no sense", function()
    for _, call in ipairs { "null", "''", "repeat('x', 201)", "'w', 0", "'w', 1001", "'w', null", "'w', 1, '0 seconds'",
      "'w', 1, '2 days'", "'w', 1, null" } do
      refused("AT008", "select claim_ate_generations(" .. call .. ")")
    end
    refused("AT008", "select renew_ate_lease('w', '0 seconds')")
    refused("AT008", "select complete_ate_generations('{}')")
    refused("AT008", "select complete_ate_generations(null)")
  end)

  it("keeps one file per device and template, and the former ones aside", function()
    s:device { hash = "F", plan = "max" }
    local row = claim()[1]
    local made = { artifact_id = "11111111-2222-3333-4444-555555555555", master_key_id = "m1", signer_id = "s1",
      container = "ate1", tools = { "timeline" }, license_key = "SECRET", plan = "max" }
    local first = complete { member(row, { generated_variables = made }) }[1]
    assert.equal(pg.null, first.error)
    local file = s:one "select * from ate_files"
    assert.equal(first.ate_file_id, file.id)
    assert.equal(made.artifact_id, file.artifact_id)
    assert.equal("m1", file.master_key_id)
    assert.equal("s1", file.signer_id)
    assert.same({ "timeline" }, file.tools)
    assert.equal("success", file.generation_status)
    assert.is_true(file.is_active)
    assert.is_nil(file.generated_variables.license_key)
    assert.equal("max", file.generated_variables.plan)
    assert.equal(s:value "id from plans where name = 'max'", file.plan_id)
    assert.equal("1.0.0", file.template_version)
    assert.is_true(s:value "expires_at = (select expires_at from licenses) from ate_files")
    assert.matches("^F_%d+%.ate$", file.filename)
    s:query("select log_download($1, null, null, 5)", { file.id })

    s:query "select queue_ate_generation('F')"
    row = claim()[1]
    assert.equal(2, row.generation)
    assert.equal(first.ate_file_id, s:complete(row))
    local second = s:one "select * from ate_files"
    assert.equal(2, second.generation)
    assert.equal(1, second.download_count)
    assert.are_not.equal(file.file_path, second.file_path)
    local former = s:one "select * from ate_file_versions"
    assert.equal(file.file_path, former.file_path)
    assert.equal(file.artifact_id, former.artifact_id)
    assert.is_false(former.is_active)
    assert.equal(file.file_path, s:one("select * from list_ate_purge(grace => '0 seconds')").file_path)
    assert.equal(1, s:value("mark_ate_purged(array[$1]::uuid[])", { former.id }))
    assert.equal(0, #s:query "select * from list_ate_purge(grace => '0 seconds')")
  end)

  it("lets no bad member of a batch spoil another", function()
    for n = 1, 4 do
      s:device { hash = "B" .. n, user = n }
    end
    local rows = claim()
    s:query("select fail_ate_generation($1, 'over', permanent => true)", { rows[2].queue_id })
    local members = {
      member(rows[1]), member(rows[2]), member(rows[3], { attempt = 9 }), member(rows[4]), member(rows[4]),
      member(rows[3], { queue_id = "99999999-9999-9999-9999-999999999999" }), 5, "x", json.null, json.array {},
      member(rows[3], { queue_id = "no" }), member(rows[3], { file_path = "/absolute" }),
      member(rows[3], { file_path = "a/../b" }), member(rows[3], { file_path = ("a"):rep(501) }),
      member(rows[3], { file_size = -1 }), member(rows[3], { file_size = "10" }), member(rows[3], { file_size = 1.5 }),
      member(rows[3], { checksum = "abc" }), member(rows[3], { checksum = ("g"):rep(64) }),
      member(rows[3], { encryption_key_hash = json.null }), member(rows[3], { attempt = "one" }),
      member(rows[3], { generated_variables = 5 }), member(rows[3], { attempt = -1 }),
    }
    local words = {}
    for i, answer in ipairs(complete(members)) do
      words[i] = answer.error == pg.null and "ok" or answer.error:match "^[^,;]*"
      assert.equal(answer.error == pg.null, answer.ate_file_id ~= pg.null)
      if type(members[i]) == "table" and i <= 6 then assert.equal(members[i].queue_id, answer.queue_id) end
    end
    assert.same({
      "ok", "not_processing: the job is failed", "stale: attempt 9 is not the current one (1)", "ok",
      "duplicate: the job is in this call already", "unknown: no such job", "malformed: not an object",
      "malformed: not an object", "malformed: not an object", "malformed: not an object", "malformed: queue_id",
      "malformed: file_path", "malformed: file_path", "malformed: file_path", "malformed: file_size", "malformed: file_size",
      "malformed: file_size", "malformed: checksum", "malformed: checksum", "malformed: encryption_key_hash",
      "malformed: attempt", "malformed: generated_variables", "malformed: attempt",
    }, words)
    assert.equal("processing", job(rows[3].queue_id).status)
    assert.equal(2, s:value "count(*) from ate_files")
    assert.equal(0, #complete {})
  end)

  it("completes the current attempt of a job whose stale one comes first in the call", function()
    s:device { hash = "TWICE" }
    local row = claim("w1", 1)[1]
    local stale, good = member(row, { attempt = row.attempt + 1 }), member(row)
    local answers = complete { stale, good, good }
    assert.matches("^stale: attempt 2 is not the current one", answers[1].error)
    assert.equal(pg.null, answers[2].error)
    assert.equal("duplicate: the job is in this call already", answers[3].error)
    assert.equal("completed", job(row.queue_id).status)
  end)

  it("puts off what a worker holds, at no cost and out of the others' way", function()
    s:device { hash = "LATER" }
    local id = claim()[1].queue_id
    local call = "select postpone_ate_generations($1, array[$2::uuid, gen_random_uuid()], $3::interval, 'denied: no way') as n"
    assert.equal(0, s:one(call, { "another", id, "30 seconds" }).n)
    refused("AT008", call, { "w", id, "-1 second" })
    refused("AT008", call, { "w", id, "2 days" })
    assert.equal(1, s:one(call, { "w", id, "30 seconds" }).n)
    local row = job(id)
    assert.same({ "queued", 0, "denied" }, { row.status, row.retry_count, row.error_code })
    assert.is_true(s:value("run_after - updated_at = interval '30 seconds' from file_generation_queue"))
    assert.equal(0, #claim())
  end)

  it("fences: another attempt raises and changes nothing", function()
    s:device { hash = "FENCE" }
    local old = claim()[1]
    assert.equal(1, s:value "release_ate_generations('w')")
    assert.equal(0, job(old.queue_id).retry_count)
    refused("AT007", "select complete_ate_generation($1, 'generated/a', 1, $2, $2)", { old.queue_id, database.SHA })
    local new = claim("v")[1]
    assert.equal(2, new.attempt)
    assert.equal(old.queue_id, new.queue_id)
    local before = s:value "to_jsonb(q)::text from file_generation_queue q"
    refused("AT005", "select complete_ate_generation($1, 'generated/a', 1, $2, $2, 1)", { old.queue_id, database.SHA })
    refused("AT005", "select fail_ate_generation($1, 'x', 1)", { old.queue_id })
    refused("AT006", "select complete_ate_generation(gen_random_uuid(), 'generated/a', 1, $1, $1, 1)", { database.SHA })
    refused("AT006", "select fail_ate_generation(gen_random_uuid(), 'x')")
    refused("AT008", "select complete_ate_generation($1, '../a', 1, $2, $2, 2)", { new.queue_id, database.SHA })
    assert.equal(before, s:value "to_jsonb(q)::text from file_generation_queue q")
    assert.is_string(s:complete(new))
    refused("AT007", "select complete_ate_generation($1, 'generated/a', 1, $2, $2)", { new.queue_id, database.SHA })
  end)

  it("runs a job at most max_retries and one times", function()
    s:device { hash = "POISON" }
    local id = s:value "queue_ate_generation('POISON')"
    local states = {}
    for n = 1, 4 do
      local row = s:one("select * from claim_ate_generations('w', only_queue_id => $1)", { id })
      assert.equal(n, row.attempt)
      states[n] = s:value("fail_ate_generation($1, 'net_down: no way')", { id })
    end
    assert.same({ "queued", "queued", "queued", "failed" }, states)
    local row = job(id)
    assert.equal("net_down", row.error_code)
    assert.equal("net_down: no way", row.error_message)
    assert.equal(3, row.retry_count)
    -- Redrive gives all retries back, and the attempts go on.
    assert.equal(id, s:value("retry_ate_generation($1)", { id }))
    assert.equal(5, claim()[1].attempt)
    assert.equal("failed", s:value("fail_ate_generation($1, 'bad script', permanent => true)", { id }))
    assert.equal(0, job(id).retry_count)
  end)

  it("waits between retries, at least as long as was asked for", function()
    s:device { hash = "WAIT" }
    local id = claim()[1].queue_id
    s:query("select fail_ate_generation($1, 'x', retry_after => '10 minutes')", { id })
    assert.is_true(s:value([[run_after between now() + interval '10 minutes' and now() + interval '12 minutes'
      from file_generation_queue where id = $1]], { id }))
    assert.equal(0, #claim())
    -- A purchase does not wait for it.
    s:query "update licenses set expires_at = now() + interval '60 days'"
    assert.equal(id, claim()[1].queue_id)
    for _ = 1, 30 do
      s:query("update file_generation_queue set retry_count = 2, max_retries = 9 where id = $1", { id })
      s:query("select fail_ate_generation($1, 'x')", { id })
      assert.is_true(s:value([[run_after - updated_at between interval '0.1 seconds' and interval '8 seconds'
        from file_generation_queue where id = $1]], { id }))
      s:query("select claim_ate_generations('w', only_queue_id => $1)", { id })
    end
    refused("AT008", "select fail_ate_generation($1, 'x', retry_after => '-1 second')", { id })
  end)

  it("cancels what goes back while a newer one is queued", function()
    s:device { hash = "OLD" }
    local old = claim()[1]
    local new = s:value "queue_ate_generation('OLD')"
    assert.are_not.equal(old.queue_id, new)
    -- Nothing is claimed for a device and template that is being processed.
    assert.equal(0, #claim("v"))
    assert.equal(0, #s:query("select * from claim_ate_generations('v', only_queue_id => $1)", { new }))
    assert.equal("cancelled", s:value("fail_ate_generation($1, 'x')", { old.queue_id }))
    assert.equal("superseded", job(old.queue_id).error_code)
    assert.equal(new, claim("v")[1].queue_id)
  end)

  it("takes the urgent first, and lets nothing wait for ever", function()
    for n = 1, 3 do
      s:device { hash = "P" .. n, user = n }
    end
    s:clear()
    local order = {}
    for n, priority in ipairs { 10, 5, 1 } do
      order[priority] = s:value("queue_ate_generation($1, 'smartgram', $2)", { "P" .. n, priority })
    end
    assert.same({ 3, 1 }, { s:value("ate_queue_position($1)", { order[10] }), s:value("ate_queue_position($1)", { order[1] }) })
    s:query("update file_generation_queue set run_after = run_after - interval '10 minutes' where id = $1", { order[10] })
    local got = claim()
    assert.same({ order[10], order[1], order[5] }, { got[1].queue_id, got[2].queue_id, got[3].queue_id })
  end)

  it("lets an urgent job overtake a long line, along the index whatever the statistics say", function()
    s:query [[insert into devices (device_hash, status, trial_ends_at)
      select 'LINE-' || n, 'trial', now() + interval '1 day' from generate_series(1, 500) n]]
    assert.equal(5, #claim("w", 5))
    s:device { hash = "HURRY" }
    local id = s:value "queue_ate_generation('HURRY', 'smartgram', 1)"
    s:query "select set_config('atelier.claim_until', '0', false)" -- a session looks from the start now and then
    assert.equal(id, claim("w", 1)[1].queue_id)
    -- No plan of a claim may look at all that is queued for a batch.
    local settings = s:value "proconfig::text from pg_proc where proname = 'claim_ate_generations'"
    for _, kind in ipairs { "seqscan", "bitmapscan", "sort" } do
      assert.truthy(settings:find("enable_" .. kind .. "=off", 1, true), kind)
    end
    assert.truthy(settings:find("plan_cache_mode=force_generic_plan", 1, true))
  end)

  it("counts places from where a worker has seen the line begin", function()
    for n = 1, 4 do
      s:device { hash = "LINE-" .. n, user = n }
    end
    local function place(n)
      return s:value([[ate_queue_position((select q.id from file_generation_queue q join devices d on d.id = q.device_id
        where d.device_hash = $1))]], { "LINE-" .. n })
    end
    assert.equal(4, place(4))
    claim("w", 2)
    s:query "select set_config('atelier.next_tick', '0', false)"
    claim("w", 1)
    assert.is_true(s:value "line_start > now() from ate_workers")
    assert.equal(1, place(4))
    -- A worker that is gone says nothing.
    s:query "update ate_workers set line_start = 'infinity', gone_at = now()"
    assert.equal(1, place(4))
    s:query "select queue_ate_generation('LINE-1'), queue_ate_generation('LINE-2')"
    assert.equal(3, s:value "max(ate_queue_position(id)) from file_generation_queue where status = 'queued'")
  end)

  it("fails for good what is no longer entitled when its turn comes", function()
    local id = s:device { hash = "GONE", user = 1 }
    s:device { hash = "STAYS", user = 2 }
    s:query("update licenses set is_valid = false where device_id = $1", { id })
    local rows = claim()
    assert.equal(1, #rows)
    assert.equal("STAYS", rows[1].device_hash)
    local row = s:one("select * from file_generation_queue where device_id = $1", { id })
    assert.same({ "failed", "licence_invalid", 0 }, { row.status, row.error_code, row.retry_count })
    s:query "select queue_ate_generation('STAYS')"
    s:complete(rows[1])
    s:query "update ate_templates set is_active = false"
    assert.equal(0, #claim())
    assert.equal("template_inactive", s:value "error_code from file_generation_queue where status = 'failed' order by finished_at desc limit 1")
  end)

  it("makes one job of a burst of purchases", function()
    local id = s:device { hash = "BURST", plan = "starter", subscription = "pending" }
    s:query("update subscriptions set status = 'active' where device_id = $1", { id })
    s:query("update subscriptions set plan_id = 'pro' where device_id = $1", { id })
    s:query("update licenses set expires_at = expires_at + interval '1 day' where device_id = $1", { id })
    s:query("update devices set status = 'suspended' where id = $1", { id })
    s:query("update devices set status = 'active' where id = $1", { id })
    assert.equal(1, s:value "count(*) from file_generation_queue")
    local rows = claim()
    assert.equal(1, #rows)
    assert.equal("pro", rows[1].plan_name)
    assert.equal("purchase", rows[1].reason)
  end)

  it("queues for each event of a purchase, and for nothing else", function()
    local id = s:device { hash = "EVENT" }
    local events = {
      { 1, "update subscriptions set plan_id = 'max'" }, { 0, "update subscriptions set plan_id = 'max'" },
      { 0, "update subscriptions set next_billing_date = now()" }, { 0, "update devices set device_model = 'x'" },
      { 1, "update licenses set expires_at = null" }, { 0, "update licenses set expires_at = null" },
      { 0, "update licenses set is_valid = false" }, { 1, "update licenses set is_valid = true" },
      { 0, "update licenses set expires_at = now() - interval '1 day'" }, { 1, "update licenses set expires_at = now() + interval '1 day'" },
      { 0, "update subscriptions set status = 'cancelled'" }, { 0, "update subscriptions set plan_id = 'pro'" },
      { 1, "update subscriptions set status = 'active'" }, { 0, "update devices set status = 'expired'" },
      { 1, "update devices set status = 'trial', trial_ends_at = now() + interval '1 day'" },
      { 1, "update devices set trial_ends_at = now() + interval '2 days'" }, { 1, "update subscriptions set plan_id = 'starter'" },
      { 1, "update devices set status = 'active'" }, { 1, "update devices set device_hash = 'EVENT-2'" },
    }
    for i, event in ipairs(events) do
      s:clear()
      s:query(event[2])
      assert.equal(event[1], s:value("count(*) from file_generation_queue where device_id = $1", { id }), i .. ": " .. event[2])
    end
  end)

  it("queues every active template, in one statement over many devices", function()
    s:query "select publish_ate_template('second', '1', 'templates/second.at/', '[]', '[]', repeat('b', 64))"
    s:query "insert into devices (device_hash, status) select 'MANY-' || n, 'trial' from generate_series(1, 50) n"
    assert.equal(100, s:value "count(*) from file_generation_queue")
    s:clear()
    s:query "update devices set trial_ends_at = now() + interval '1 day'"
    assert.equal(100, s:value "count(*) from file_generation_queue where run_after <= clock_timestamp()")
    assert.equal(100, #claim("w", 200))
  end)

  it("gives a purchase that comes in pieces a moment to be complete", function()
    local id = s:device { hash = "PIECES", licence = false }
    local row = s:one("select id from file_generation_queue where device_id = $1", { id })
    assert.is_true(s:value("run_after > created_at + interval '4 seconds' from file_generation_queue where id = $1", { row.id }))
    s:query "update file_generation_queue set run_after = run_after + interval '1 hour'" -- a slow machine would miss it
    assert.equal(0, #claim())
    s:query("insert into licenses (device_id) values ($1)", { id })
    assert.equal(row.id, claim()[1].queue_id)
  end)

  it("hands back and renews only the worker's own", function()
    for n = 1, 3 do
      s:device { hash = "W" .. n, user = n }
    end
    claim("one", 2)
    claim("two", 1)
    assert.equal(2, s:value "renew_ate_lease('one', '1 hour')")
    assert.equal(2, s:value "count(*) from file_generation_queue where lease_until > now() + interval '50 minutes'")
    assert.equal(2, s:value "release_ate_generations('one')")
    assert.equal(0, s:value "release_ate_generations('one')")
    assert.equal(1, s:value "count(*) from file_generation_queue where status = 'processing'")
    assert.equal("released", s:value "gone_reason from ate_workers where worker_id = 'one'")
    assert.equal(0, s:value "sum(retry_count) from file_generation_queue")
    assert.equal(2, #claim("three"))
  end)

  it("runs again what a lease has left", function()
    s:device { hash = "LEASE" }
    s:query "set atelier.worker_lock = 'off'"
    local row = claim("slow", 1, ", '1 second'")[1]
    assert.is_false(s:value "lock_held from ate_workers")
    assert.equal(0, s:value "rescue_ate_generations()")
    s:query "update file_generation_queue set lease_until = clock_timestamp() - interval '1 millisecond'"
    assert.equal(1, s:value "rescue_ate_generations()")
    local again = claim("quick")[1]
    assert.same({ row.queue_id, 2, 1 }, { again.queue_id, again.attempt, again.retry_count })
    s:query "update file_generation_queue set lease_until = clock_timestamp() - interval '1 millisecond', retry_count = 3"
    s:query "select rescue_ate_generations()"
    assert.same({ "failed", "lease_over" }, { job(row.queue_id).status, job(row.queue_id).error_code })
  end)

  it("ends the job of a device that no plan is left for, and goes on to the next", function()
    s:query "update plans set name = 'entry' where name = 'starter'"
    local id = s:device { hash = "PLANLESS", plan = "pro" }
    s:query("update subscriptions set plan_id = null where device_id = $1", { id })
    s:device { hash = "NEXT", user = 2, plan = "pro" }
    s:query [[update file_generation_queue set run_after = clock_timestamp() - interval '1 minute' * case device_id
      when (select id from devices where device_hash = 'PLANLESS') then 2 else 1 end]]
    assert.equal(0, #claim("w", 1))
    assert.equal("NEXT", claim("w", 1)[1].device_hash)
    assert.equal("not entitled: no_plan", s:value("error_message from file_generation_queue where device_id = $1", { id }))
    assert.is_false(s:one("select * from get_device_plan_info('PLANLESS')").is_valid)
    refused("AT002", "select queue_ate_generation('PLANLESS')")
  end)

  it("cancels, and a cancelled job cannot end", function()
    s:device { hash = "C" }
    local row = claim()[1]
    assert.is_true(s:value("cancel_ate_generation($1, 'no longer wanted')", { row.queue_id }))
    assert.is_false(s:value("cancel_ate_generation($1)", { row.queue_id }))
    assert.equal("cancelled: no longer wanted", job(row.queue_id).error_message)
    refused("AT007", "select complete_ate_generation($1, 'generated/a', 1, $2, $2, 1)", { row.queue_id, database.SHA })
    refused("AT006", "select cancel_ate_generation(gen_random_uuid())")
    local newer = s:value "queue_ate_generation('C')"
    assert.equal(newer, s:value("retry_ate_generation($1)", { row.queue_id }))
    s:complete(claim()[1])
    refused("AT007", "select retry_ate_generation($1)", { newer })
    refused("AT006", "select retry_ate_generation(gen_random_uuid())")
  end)

  it("shows stages of the current attempt only", function()
    s:device { hash = "S" }
    local row = claim()[1]
    local function report(attempt, stage)
      return s:value("report_ate_generations($1)", { pg.json(json.array { { queue_id = row.queue_id, attempt = attempt, stage = stage,
        verdict = "ok", usage = { memory = 5 } } }) })
    end
    assert.equal(1, report(1, "sealing"))
    assert.equal(0, report(2, "storing"))
    assert.same({ "sealing", "ok" }, { job(row.queue_id).stage, job(row.queue_id).verdict })
    s:query "savepoint one"
    assert.equal("23514", (s:refused("select report_ate_generations($1)",
      { pg.json(json.array { { queue_id = row.queue_id, attempt = 1, stage = "dreaming" } }) })))
    s:query "rollback to one"
    s:complete(row)
    assert.equal(pg.null, job(row.queue_id).stage)
    assert.equal(5, job(row.queue_id).usage.memory)
  end)

  it("moves finished jobs to the history, and runs them again from there", function()
    for n = 1, 3 do
      s:device { hash = "T" .. n, user = n }
    end
    s:query [[update file_generation_queue set generation_params = '{"shop": 7}', max_retries = 1]]
    local rows = claim("w", 2)
    s:complete(rows[1])
    s:query("select fail_ate_generation($1, 'x', permanent => true)", { rows[2].queue_id })
    assert.equal(0, s:value "trim_ate_queue(10)")
    assert.equal(1, s:value "trim_ate_queue(1, '0 seconds')")
    assert.equal(1, s:value "trim_ate_queue(10, '0 seconds')")
    assert.same({ 1, 2 }, { s:value "count(*) from file_generation_queue", s:value "count(*) from file_generation_history" })
    local again = s:value("retry_ate_generation($1)", { rows[2].queue_id })
    assert.are_not.equal(rows[2].queue_id, again)
    assert.same({ { shop = 7 }, 1 }, { job(again).generation_params, job(again).max_retries })
    assert.equal(2, s:value "count(*) from file_generation_queue where status = 'queued'")
    assert.equal(2, s:value "trim_ate_history(10, '0 seconds')")
  end)

  it("builds anew what a master key or a template calls for", function()
    for n = 1, 2 do
      s:device { hash = "K" .. n, user = n }
    end
    local rows = claim()
    complete { member(rows[1], { generated_variables = { master_key_id = "old" } }),
      member(rows[2], { generated_variables = { master_key_id = "new" } }) }
    assert.equal(1, s:value "requeue_ate_files('old')")
    assert.equal(0, s:value "requeue_ate_files('none')")
    s:clear()
    local function publish(version, letter, requeue)
      return s:query("select publish_ate_template('smartgram', $1, 'p', '[]', '[]', repeat($2, 64), requeue => $3)", { version, letter, requeue })
    end
    publish("2.0.0", "b", true)
    assert.equal(2, s:value "count(*) from file_generation_queue")
    assert.equal("2.0.0", claim()[1].template_version)
    refused("AT009", "select publish_ate_template('smartgram', '1.0.0', 'p', '[]', '[]', repeat('c', 64))")
    publish("1.0.0", "A", false)
    assert.same({ "1.0.0", 2 }, { s:value "version from ate_templates", s:value "count(*) from ate_template_versions" })
    for _, bad in ipairs { "'Big', '1', 'p', '[]', '[]', repeat('a', 64)", "'a', '', 'p', '[]', '[]', repeat('a', 64)",
      "'a', '1', 'p', '{}', '[]', repeat('a', 64)", "'a', '1', 'p', '[]', '[]', 'a'",
      "'a', '1', 'p', '[]', '[]', repeat('a', 64), container => 'tar'" } do
      refused("AT008", "select publish_ate_template(" .. bad .. ")")
    end
  end)

  it("lets files expire", function()
    s:device { hash = "X" }
    s:complete(claim()[1])
    assert.equal(0, s:value "expire_ate_files()")
    s:query "update ate_files set expires_at = clock_timestamp() - interval '1 second'"
    assert.equal(1, s:value "expire_ate_files()")
    assert.is_false(s:value "is_active from ate_files")
  end)

  it("wakes workers and tells live views", function()
    s:query "commit"
    local ear = database.session(conninfo)
    ear.conn:listen "ate_queue"
    ear.conn:listen "ate_jobs"
    local function heard(count)
      local seen = {}
      repeat
        local list = ear.conn:notifications(60)
        for _, n in ipairs(list) do
          seen[#seen + 1] = n.channel == "ate_queue" and "wake" or json.decode(n.payload).state
        end
      until #list == 0 or #seen >= count
      table.sort(seen)
      return table.concat(seen, " ")
    end
    s:query "begin"
    s:device { hash = "N" }
    s:query "commit"
    assert.equal("queued wake", heard(2))
    local row = claim()[1]
    assert.equal("processing", heard(1))
    s:complete(row)
    assert.equal("completed", heard(1))
    s:query "delete from devices where device_hash = 'N'"
    s:query "select release_ate_generations('w')"
    ear:close()
    s:query "begin"
  end)
end)
