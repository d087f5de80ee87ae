local database = require "spec.sql.database"
local pg = require "atelier.pg"

describe("several sessions", function()
  local conninfo, a, b

  local function background(sql)
    return database.background(conninfo, sql)
  end

  before_each(function()
    conninfo = database.fresh()
    a = database.session(conninfo)
    -- Who lets go of his locks does so long before that, also where the whole machine stands still for a moment.
    a:query [[do $$ begin execute format('alter database %I set deadlock_timeout = ''20s''', current_database()); end $$]]
    b = database.session(conninfo)
  end)

  after_each(function()
    database.close(a, b)
  end)

  it("never claim the same job", function()
    for n = 1, 6 do
      a:device { hash = "R" .. n, user = n }
    end
    a:query "begin"
    local seen = {}
    for _, row in ipairs(a:query "select * from claim_ate_generations('a', 4)") do
      seen[row.queue_id] = true
    end
    local rest = b:query "select * from claim_ate_generations('b', 10)"
    assert.equal(2, #rest)
    for _, row in ipairs(rest) do
      assert.is_nil(seen[row.queue_id])
    end
    a:query "rollback"
    assert.equal(4, #b:query "select * from claim_ate_generations('b', 10)")
  end)

  -- Whoever changes several files locks them in the order of their ids. Here a session has the first of two, and wants
  -- the second while the call waits for the first.
  for name, call in pairs {
    ["who replaces files"] = [[select * from complete_ate_generations((select jsonb_agg(jsonb_build_object('queue_id', q.id,
        'attempt', q.attempt, 'file_path', 'generated/x/' || q.id, 'file_size', 1, 'checksum', repeat('a', 64),
        'encryption_key_hash', repeat('a', 64)) order by f.id %s)
      from file_generation_queue q join ate_files f on f.device_id = q.device_id where q.status = 'processing'))]],
    ["who writes down downloads"] = [[select ate_log_downloads((select jsonb_agg(jsonb_build_object('id',
        gen_random_uuid(), 'file', f.id, 'bytes', 1, 'status', 'completed', 'reached_end', true, 'age', 0)
        order by f.id %s) from ate_files f))]],
  } do
    it("do not lock each other out: " .. name, function()
      for n = 1, 2 do
        a:device { hash = "ORDER" .. n, user = n }
      end
      for _, job in ipairs(a:query "select * from claim_ate_generations('a', 2)") do
        a:complete(job)
      end
      for _, direction in ipairs { "asc", "desc" } do
        a:query "select request_ate_generation(device_hash) from devices"
        assert.equal(2, #a:query "select * from claim_ate_generations('a', 2)")
        local files = a:query "select id from ate_files order by id"
        b:query "begin"
        b:query("select from ate_files where id = $1 for no key update", { files[1].id })
        local written, conn = background(call:format(direction))
        a:await_blocked(conn:backend_pid())
        b:query("select from ate_files where id = $1 for no key update", { files[2].id })
        b:query "commit"
        local rows, message, state = written()
        assert.is_truthy(rows, tostring(state) .. ": " .. tostring(message))
        a:query "update file_generation_queue set status = 'cancelled', lease_until = null where status = 'processing'"
      end
    end)
  end

  it("see a purchase that commits between lock and read", function()
    a:device { hash = "BETWEEN", plan = "starter" }
    b:query "begin"
    -- The statement that reads takes its locks before its snapshot: held up here, it has nothing but the job's lock.
    b:query "lock table ate_files in access exclusive mode"
    local claimed, conn = background "select plan_name from claim_ate_generations('w')"
    a:await_blocked(conn:backend_pid())
    assert.equal(0, #a:query "select * from file_generation_queue for update skip locked")
    a:query "set session_replication_role = replica"
    a:query "update subscriptions set plan_id = 'max'"
    a:query "set session_replication_role = origin"
    b:query "commit"
    assert.equal("max", assert(claimed())[1].plan_name)
  end)

  it("queue anew for a purchase that comes while a claim is under way", function()
    a:device { hash = "DURING", plan = "starter" }
    b:query "begin"
    local row = b:one "select * from claim_ate_generations('w')"
    assert.equal("starter", row.plan_name)
    local bought, conn = background "update subscriptions set plan_id = 'max'"
    a:await_blocked(conn:backend_pid())
    b:query "commit"
    assert(bought())
    b:complete(row)
    assert.equal("max", b:one("select * from claim_ate_generations('w')").plan_name)
  end)

  it("leave a job alone that a purchase is touching", function()
    a:device { hash = "TOUCH", plan = "starter" }
    a:query "begin"
    a:query "update subscriptions set plan_id = 'pro'"
    assert.equal(0, #b:query "select * from claim_ate_generations('w')")
    a:query "commit"
    assert.equal("pro", b:one("select * from claim_ate_generations('w')").plan_name)
  end)

  it("find the last part of a purchase that two transactions made at once", function()
    local id = a:device { hash = "HALVES", subscription = "pending", licence = false }
    a:clear()
    a:query "begin"
    a:query "update subscriptions set status = 'active'"
    local other, conn = background(("insert into licenses (device_id) values ('%s')"):format(id))
    a:await_blocked(conn:backend_pid())
    a:query "commit"
    assert(other())
    assert.equal(1, a:value "count(*) from file_generation_queue")
    a:query "update file_generation_queue set run_after = now()"
    assert.equal("HALVES", a:one("select * from claim_ate_generations('w')").device_hash)
  end)

  it("make one job of two requests at once", function()
    a:device { hash = "TWO" }
    a:clear()
    a:query "begin"
    local first = a:value "queue_ate_generation('TWO')"
    local second, conn = background "select queue_ate_generation('TWO', 'smartgram', 1)::text as id"
    a:await_blocked(conn:backend_pid())
    a:query "commit"
    assert.equal(first, assert(second())[1].id)
    assert.equal(1, a:value "priority from file_generation_queue")
  end)

  it("supersede a job that fails while a newer one is being queued", function()
    a:device { hash = "SUPER" }
    local row = a:one "select * from claim_ate_generations('w')"
    a:query "begin"
    local newer = a:value "queue_ate_generation('SUPER')"
    local failed, conn = background(("select fail_ate_generation('%s', 'x') as status"):format(row.queue_id))
    a:await_blocked(conn:backend_pid())
    a:query "commit"
    assert.equal("cancelled", assert(failed())[1].status)
    assert.equal(newer, b:one("select * from claim_ate_generations('v')").queue_id)
  end)

  it("let only one of a completion and a cancel win", function()
    a:device { hash = "WIN" }
    local row = a:one "select * from claim_ate_generations('w')"
    a:query "begin"
    assert.is_true(a:value("cancel_ate_generation($1)", { row.queue_id }))
    local done, conn = background(([[select error from complete_ate_generations(jsonb_build_array(jsonb_build_object(
      'queue_id', '%s', 'attempt', 1, 'file_path', 'generated/a', 'file_size', 1, 'checksum', repeat('a', 64),
      'encryption_key_hash', repeat('a', 64))))]]):format(row.queue_id))
    a:await_blocked(conn:backend_pid())
    a:query "commit"
    assert.matches("^stale", assert(done())[1].error)
    assert.equal(0, a:value "count(*) from ate_files")
  end)

  it("run a dead worker's jobs again at once", function()
    a:device { hash = "DEAD" }
    local row = b:one "select * from claim_ate_generations('host:1:dead', 1, '1 hour')"
    assert.equal(0, a:value "rescue_ate_generations()")
    assert.equal(0, #a:query "select * from claim_ate_generations('host:2:live')")
    a:query("select pg_terminate_backend($1, 60000)", { b.conn:backend_pid() })
    a:query "select set_config('atelier.next_tick', '0', false)"
    local again = a:one "select * from claim_ate_generations('host:2:live')"
    assert.same({ row.queue_id, 2, 1 }, { again.queue_id, again.attempt, again.retry_count })
    assert.equal("lost", a:value "gone_reason from ate_workers where worker_id = 'host:1:dead'")
    assert.equal(pg.null, a:value "gone_at from ate_workers where worker_id = 'host:2:live'")
  end)

  it("trust only the lease of a worker whose lock another session has", function()
    a:query "select * from claim_ate_generations('shared')"
    assert.is_true(a:value "lock_held from ate_workers")
    b:query "select * from claim_ate_generations('shared')"
    assert.is_false(a:value "lock_held from ate_workers")
  end)

  it("complete a job whose row another session is about to change", function()
    a:device { hash = "TOUCHED", user = 1 }
    local row = a:query("select * from claim_ate_generations('w', 1)")[1]
    b:query "begin"
    assert.equal(1, b:value "renew_ate_lease('w')") -- as the worker's former session, which is still at it
    local done, conn = background(([[select error from complete_ate_generations(jsonb_build_array(jsonb_build_object(
        'queue_id', '%s', 'attempt', %d, 'file_path', 'generated/t', 'file_size', 1, 'checksum', repeat('a', 64),
        'encryption_key_hash', repeat('a', 64))))]]):format(row.queue_id, row.attempt))
    a:await_blocked(conn:backend_pid())
    b:query "commit"
    assert.equal(pg.null, assert(done())[1].error)
    assert.equal("generated/t", a:value "file_path from ate_files")
  end)

  it("delete a device while its job is being completed, and the other way round", function()
    a:device { hash = "DEL-1", user = 1 }
    a:device { hash = "DEL-2", user = 2 }
    local rows = a:query "select * from claim_ate_generations('w', 2)"
    a:query "begin"
    a:complete(rows[1])
    local deleted, conn = background(("delete from devices where id = '%s'"):format(rows[1].device_id))
    a:await_blocked(conn:backend_pid())
    a:query "commit"
    assert(deleted())
    assert.equal(0, a:value "count(*) from ate_files")
    b:query "begin"
    b:query("delete from devices where id = $1", { rows[2].device_id })
    local done, other = background(("select complete_ate_generation('%s', 'generated/a', 1, repeat('a', 64), repeat('a', 64))")
      :format(rows[2].queue_id))
    a:await_blocked(other:backend_pid())
    b:query "commit"
    local result, _, state = done()
    assert.is_nil(result)
    assert.equal("AT005", state)
  end)

  for name, order in pairs { ["in one order"] = { "HERS-1", "HERS-2" }, ["in the other one"] = { "HERS-2", "HERS-1" } } do
    it("end no purchase for jobs that go back, " .. name, function()
      for n, hash in ipairs { "HERS-1", "HERS-2" } do
        a:device { hash = hash, user = n }
      end
      assert.equal(2, #a:query "select * from claim_ate_generations('a', 2)")
      b:query "begin"
      b:buy(order[1])
      local released, conn = background "select release_ate_generations('a') as n"
      a:await_blocked(conn:backend_pid(), "release")
      b:buy(order[2])
      b:query "commit"
      assert.equal(2, assert(released())[1].n + a:value "release_ate_generations('a')")
      assert.equal("cancelled 2, queued 2", a:value [[string_agg(status || ' ' || n, ', ' order by status)
        from (select status, count(*) as n from file_generation_queue group by status) c]])
    end)
  end

  for name, call in pairs {
    ["rotation"] = "select requeue_ate_files('mk1') as queued",
    ["renewal"] = "queued from renew_ate_files(null, 1000, 'mk2', '0')",
  } do
    it("end no purchase for a " .. name .. " of two templates", function()
      a:query "select publish_ate_template('other', '1.0.0', 'templates/other.at/', '[]', '[]', repeat('b', 64))"
      for n = 1, 2 do
        a:device { hash = "HERS-" .. n, user = n }
      end
      for _, job in ipairs(a:query "select * from claim_ate_generations('a', 9)") do
        a:complete(job)
      end
      a:query "update ate_files set master_key_id = 'mk1'"
      local first, last = table.unpack(a:query "select d.device_hash as hash from devices d order by d.id")
      b:query "begin"
      b:buy(last.hash) -- both of its templates
      if name == "rotation" then
        local done, conn = background(call)
        a:await_blocked(conn:backend_pid())
        b:buy(first.hash)
        b:query "commit"
        assert(done())
      else
        assert.equal(2, a:in_all(2, call)) -- and does not wait for the others
        b:buy(first.hash)
        b:query "commit"
      end
      assert.equal(4, a:value "count(*) from file_generation_queue where status = 'queued' and reason = 'purchase'")
    end)
  end

  -- What a transaction has from an earlier call it cannot let go of in the next one.
  it("are not in each other's way for ever, where each asks for two files in one transaction", function()
    for n, hash in ipairs { "ONE", "TWO" } do
      a:device { hash = hash, user = n }
    end
    b:query "set deadlock_timeout = '1s'"
    b:query "begin"
    b:query "select queue_ate_generation('ONE'), pg_advisory_lock(7)"
    local done, conn = background [[do $$
      begin
        perform queue_ate_generation('TWO'), set_config('deadlock_timeout', '1s', true);
        perform pg_advisory_xact_lock(7);
        perform queue_ate_generation('ONE');
      end $$]]
    a:await_blocked(conn:backend_pid())
    b:query "select pg_advisory_unlock(7)"
    local mine, _, my_end = b.conn:query "select queue_ate_generation('TWO')"
    b:query(mine and "commit" or "rollback")
    local his, _, his_end = done()
    assert.equal("40P01", mine and his_end or my_end)
    assert.is_true((mine ~= nil) ~= (his ~= nil))
  end)

  it("leave to a purchase what it holds, and rescue the rest", function()
    for n = 1, 3 do
      a:device { hash = "HERS-" .. n, user = n }
    end
    assert.equal(3, #b:query "select * from claim_ate_generations('host:1:dead', 3)")
    b:query "begin"
    b:query "select pg_advisory_unlock_all()" -- as if its worker were gone
    b:buy("HERS-2")
    assert.equal(2, a:in_all(2, "rescue_ate_generations()"))
    assert.equal("HERS-1 1, HERS-3 1", a:value [[string_agg(device_hash || ' ' || retry_count, ', ' order by device_hash)
      from claim_ate_generations('host:2:live', 9)]])
    b:query "commit"
    a:query "update ate_workers set gone_at = clock_timestamp() where gone_reason = 'lost'" -- however slow this was
    assert.equal(1, a:value "rescue_ate_generations()")
    assert.equal("cancelled superseded, queued none", a:value [[string_agg(q.status || ' ' || coalesce(q.error_code, 'none'), ', '
      order by q.status) from file_generation_queue q join devices d on d.id = q.device_id where d.device_hash = 'HERS-2']])
  end)

  it("work, buy, release and rescue all at once, without a deadlock and with every job done once", function()
    a:query [[insert into devices (device_hash, status, trial_ends_at)
      select 'STRESS-' || n, 'trial', now() + interval '1 day' from generate_series(1, 60) n]]
    local work = [[do $$
      declare jobs jsonb; bad text; done integer := 0;
      begin
        for i in 1 .. 60 loop
          select jsonb_agg(jsonb_build_object('queue_id', queue_id, 'attempt', attempt, 'file_path', 'generated/' || queue_id || attempt,
            'file_size', 1, 'checksum', repeat('a', 64), 'encryption_key_hash', repeat('a', 64)) order by random())
          into jobs from claim_ate_generations('%s', 7);
          commit;
          if i %% 10 = 0 then
            perform release_ate_generations('%s');
          else
            select error into bad from complete_ate_generations(coalesce(jobs, '[]')) where error is not null;
            if bad is not null then raise exception 'not completed: %%', bad; end if;
          end if;
          commit;
        end loop;
      end $$]]
    local buy = [[do $$
      begin
        for i in 1 .. 60 loop
          update devices set trial_ends_at = now() + i * interval '1 hour' where device_hash like 'STRESS-%%' and random() < 0.2;
          commit;
          perform rescue_ate_generations();
          commit;
        end loop;
      end $$]]
    local waits = { (background(work:format("one", "one"))), (background(work:format("two", "two"))), (background(buy:gsub("%%%%", "%%"))) }
    for _, wait in ipairs(waits) do
      local result, message = wait()
      assert(result, message)
    end
    repeat
      local rows = a:query "select * from claim_ate_generations('last', 50)"
      for _, row in ipairs(rows) do
        a:complete(row)
      end
    until #rows == 0
    assert.equal(60, a:value "count(*) from ate_files")
    assert.equal(0, a:value "count(*) from file_generation_queue where status not in ('completed', 'cancelled')")
    -- Cancelled are those that were handed back while a newer one was queued.
    assert.equal(0, a:value "count(*) from file_generation_queue where status = 'cancelled' and error_code <> 'superseded'")
    assert.equal(0, a:value "sum(retry_count) from file_generation_queue")
    assert.equal(a:value "count(*) from file_generation_queue where status = 'completed'", a:value "(select count(*) from ate_file_versions) + 60")
    assert.equal(0, a:value [[count(*) from ate_files f where f.expires_at <>
      (select d.trial_ends_at from devices d where d.id = f.device_id)]])
  end)
end)
