local clock = require "clock"
local database = require "spec.sql.database"
local pg = require "atelier.pg"

-- A vendor's transaction that is open, as one that somebody forgot in an editor: it may keep its own customer waiting,
-- never another one; and whoever waits for it must never be what it waits for.
describe("an open transaction", function()
  local conninfo, a, b

  before_each(function()
    conninfo = database.fresh()
    a = database.session(conninfo)
    -- Who lets go of his locks does so long before that, also where the whole machine stands still for a moment.
    a:query [[do $$ begin execute format('alter database %I set deadlock_timeout = ''20s''', current_database()); end $$]]
    b = database.session(conninfo)
    -- What would wait for the other session waits for ever, since this one is to end that.
    a:query "set statement_timeout = '60s'"
  end)

  after_each(function()
    database.close(a, b)
  end)

  local MEMBERS = [[(select jsonb_agg(jsonb_build_object('queue_id', q.id, 'attempt', q.attempt,
      'file_path', 'generated/x/' || q.id || q.attempt, 'file_size', 1, 'checksum', repeat('a', 64),
      'encryption_key_hash', repeat('a', 64)) order by q.id)
    from file_generation_queue q where q.status = 'processing')]]
  local DOWNLOADS = [[(select jsonb_agg(jsonb_build_object('id', f.id, 'file', f.id, 'bytes', 1,
      'status', 'completed', 'reached_end', true, 'age', 0)) from ate_files f)]]

  local function again(is_enough, sql)
    local deadline, rows = clock.now() + 60
    repeat
      rows = a:query(sql)
    until is_enough(rows) or clock.now() > deadline
    return rows
  end

  -- Devices with a file each.
  local function built(...)
    for n, hash in ipairs { ... } do
      a:device { hash = hash, user = n }
    end
    for _, job in ipairs(a:query "select * from claim_ate_generations('a', 9)") do
      a:complete(job)
    end
  end

  -- One job of each is at work, and a file of before is there.
  local function at_work(...)
    built(...)
    a:query "select queue_ate_generation(device_hash) from devices order by device_hash"
    assert.equal(select("#", ...), #a:query "select * from claim_ate_generations('a', 9)")
  end

  describe("of one customer keeps no other one's", function()
    local THEIRS <const> = "(select id from devices where device_hash = 'BUSY')"
    local HOLDS = {
      ["end"] = "delete from devices where device_hash = 'BUSY'",
      ["new hash"] = "update devices set device_hash = 'OTHER' where device_hash = 'BUSY'",
      ["device"] = "select from devices where device_hash = 'BUSY' for update",
      ["job"] = "select from file_generation_queue where status = 'processing' and device_id = " .. THEIRS .. " for update",
      ["file"] = "select from ate_files where for_update for update",
      ["purchase"] = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. THEIRS,
    }
    HOLDS.file = HOLDS.file:gsub("where for_update", "where device_id = " .. THEIRS:gsub("%%", "%%%%"))

    for name, hold in pairs(HOLDS) do
      it("jobs or history, with its " .. name, function()
        at_work("BUSY", "FREE-1", "FREE-2")
        b:query "begin"
        b:query(hold)
        assert.is_true(2 <= a:value "renew_ate_lease('a')")
        assert.is_true(2 <= a:value([[report_ate_generations((select jsonb_agg(jsonb_build_object('queue_id', q.id,
          'attempt', q.attempt, 'stage', 'sealing')) from file_generation_queue q where q.status = 'processing'))]]))
        local waiting = again(function(rows) return #rows <= 1 end,
          "select id::text from ate_offer_downloads(" .. DOWNLOADS .. ") as id")
        assert.is_true(#waiting <= 1)
        assert.equal(3 - #waiting, a:value "count(*) from download_history")
        local busy = again(function(rows) return #rows <= 1 end,
          "select d.device_hash as hash, q.status, o.error from complete_ate_batch(" .. MEMBERS .. [[, true) o
          join file_generation_queue q on q.id = o.queue_id join devices d on d.id = q.device_id where o.error is not null]])
        assert.is_true(#busy <= 1)
        local is_busy = busy[1] ~= nil
        if is_busy then
          assert.same({ "BUSY", "processing" }, { busy[1].hash, busy[1].status })
          assert.matches("^busy: ", busy[1].error)
        end
        assert.equal(#busy, a:value "count(*) from file_generation_queue where status = 'processing'")
        b:query "rollback"
        assert.equal(#waiting, a:value("ate_log_downloads(" .. DOWNLOADS .. ")"))
        if is_busy then
          assert.same({ pg.null }, { a:one("select error from complete_ate_batch(" .. MEMBERS .. ", true)").error })
        end
        assert.equal(0, a:value "count(*) from ate_files where file_path not like 'generated/x/%'")
        assert.equal(0, a:value "count(*) from file_generation_queue where status not in ('completed', 'queued')")
      end)
    end

    it("finished jobs in the queue, purged bytes unmarked, or files unrenewed", function()
      at_work("BUSY", "FREE")
      a:query("select * from complete_ate_generations(" .. MEMBERS .. ")")
      b:query "begin"
      b:query "select from devices where device_hash = 'BUSY' for update"
      b:query("select from ate_files where device_id = " .. THEIRS .. " for update")
      b:query("select from ate_file_versions where device_id = " .. THEIRS .. " for update")
      assert.equal(1, a:value "mark_ate_purged(array(select version_id from list_ate_purge(9, '0')))")
      assert.equal(1, a:value "mark_ate_files_purged(array(select id from ate_files order by id), array(select file_path from ate_files order by id))")
      assert.equal(2, a:value "trim_ate_queue(9, '0')")
      assert.equal("FREE 2", a:value [[string_agg(device_hash || ' ' || n, ', ') from (select d.device_hash, count(*) as n
        from file_generation_history h join devices d on d.id = h.device_id group by 1) c]])
      assert.equal(1, a:in_all(1, "queued from renew_ate_files(null, 1000, 'mk2', '0')"))
      b:query "rollback"
      assert.equal(2, a:value "trim_ate_queue(9, '0')")
      assert.equal(1, a:in_all(1, "queued from renew_ate_files(null, 1000, 'mk2', '0')"))
    end)

    it("missing file from being built anew", function()
      built("BUSY", "FREE")
      b:query "begin"
      b:buy("BUSY")
      assert.equal("FREE", a:value [[string_agg(device_hash, ', ') from renew_ate_missing(
        array(select id from ate_files order by id), array(select file_path from ate_files order by id))]])
      b:query "rollback"
    end)

    it("job of a worker that stops", function()
      at_work("BUSY", "FREE")
      b:query "begin"
      b:query "delete from devices where device_hash = 'BUSY'"
      assert.equal(1, a:in_all(1, "release_ate_generations('a')"))
      b:query "rollback"
      assert.equal(1, a:in_all(1, "release_ate_generations('a')"))
      assert.equal(2, a:value "count(*) from file_generation_queue where status = 'queued' and retry_count = 0")
    end)

    it("claim, with the job of a dead worker", function()
      at_work("BUSY", "FREE")
      a:query "select pg_advisory_unlock_all()" -- as if that worker were gone
      b:query "begin"
      b:query "update devices set device_hash = 'OTHER' where device_hash = 'BUSY'"
      assert.equal("FREE", a:value "string_agg(device_hash, ', ') from claim_ate_generations('host:2:live', 9)")
      b:query "rollback"
      a:query "update ate_workers set gone_at = clock_timestamp() where gone_reason = 'lost'" -- however slow this was
      assert.equal(1, a:value "rescue_ate_generations()")
    end)
  end)

  -- What the vendor has first, what is called then and waits for it, and what the vendor wants of that one.
  local HIS = "(select id from devices where device_hash = '%s')"
  local CASES = {
    ["completions, as two devices are deleted"] = { work = true,
      first = "delete from devices where device_hash = 'ONE'", call = "select * from complete_ate_generations(" .. MEMBERS .. ")",
      last = "delete from devices where device_hash = 'TWO'" },
    ["completions, as two are deleted in the other order"] = { work = true,
      first = "delete from devices where device_hash = 'TWO'", call = "select * from complete_ate_generations(" .. MEMBERS .. ")",
      last = "delete from devices where device_hash = 'ONE'" },
    ["downloads, as a device is deleted"] = {
      first = "select from devices where device_hash = 'ONE' for update", call = "select ate_log_downloads(" .. DOWNLOADS .. ")",
      last = "delete from devices where device_hash = 'ONE'" },
    ["one download, as its device is deleted"] = { state = "AT006",
      first = "select from devices where device_hash = 'ONE' for update",
      call = "select log_download(id, null, 'x', 1) from ate_files where device_id = " .. HIS:format "ONE",
      last = "delete from devices where device_hash = 'ONE'" },
    ["jobs that are handed back, as one buys and one is deleted"] = { work = true, name = "release",
      first = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. HIS:format "ONE",
      call = "select release_ate_generations('a')", last = "delete from devices where device_hash = 'TWO'" },
    ["a failure, as its device buys and is deleted"] = { work = true, state = "AT006",
      first = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. HIS:format "ONE",
      call = "select fail_ate_generation(id, 'x') from file_generation_queue where status = 'processing' and device_id = "
        .. HIS:format "ONE", last = "delete from devices where device_hash = 'ONE'" },
    ["a redrive, as its device buys and is deleted"] = { work = true, state = "AT006",
      before = "select cancel_ate_generation(id) from file_generation_queue where status = 'processing'",
      first = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. HIS:format "ONE",
      call = "select retry_ate_generation(id) from file_generation_queue where status = 'cancelled' and device_id = "
        .. HIS:format "ONE", last = "delete from devices where device_hash = 'ONE'" },
    ["a template that is published, as two devices buy"] = {
      before = "select queue_ate_generation('ONE')",
      first = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. HIS:format "ONE",
      call = [[select publish_ate_template('smartgram', '2.0.0', 'templates/smartgram.at/', '[]', '[]', repeat('c', 64),
        requeue => true)]],
      last = "update licenses set expires_at = expires_at + interval '1 day' where device_id = " .. HIS:format "TWO" },
    ["a request, as its device has another hash"] = {
      first = "select from devices where device_hash = 'ONE' for update", call = "select queue_ate_generation('ONE')",
      last = "update devices set device_hash = 'OTHER' where device_hash = 'ONE'" },
  }

  for name, case in pairs(CASES) do
    it("is not ended by a deadlock with " .. name, function()
      (case.work and at_work or built)("ONE", "TWO")
      if case.before then
        a:query(case.before)
      end
      b:query "begin"
      b:query(case.first)
      local done, conn = database.background(conninfo, case.call)
      a:await_blocked(conn:backend_pid(), case.name)
      b:query(case.last)
      b:query "commit"
      local rows, message, state = done()
      assert.equal(case.state, state, message)
      assert.equal(case.state == nil, rows ~= nil)
    end)
  end
end)
