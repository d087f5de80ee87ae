local database = require "spec.sql.database"
local json = require "atelier.json"
local pg = require "atelier.pg"

describe("the queue and its rules, read by somebody who means no good,", function()
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

  local function claim(n, worker)
    return s:query("select * from claim_ate_generations($1, $2)", { worker or "host-1-a", n or 1 })
  end

  local function job(id)
    return s:one("select * from file_generation_queue where id = $1", { id })
  end

  -- ==== entitlement ====

  local ROOM = { starter = 1, pro = 3, max = 10 }
  local MEANT = { basic = "starter", premium = "pro", enterprise = "max", socialtouch_monthly_2980 = "starter" }

  local function pick(list)
    return list[math.random(#list)]
  end

  -- The rules in words of their own: what a device lacks by itself, then its rank among its user's by age.
  local function lack(d)
    if d.status == "trial" then
      return not (d.trial and d.trial > 0) and "trial_ended" or nil
    elseif d.status ~= "active" then
      return "device_not_active"
    elseif not d.subscription then
      return "no_subscription"
    elseif d.subscription ~= "active" then
      return "subscription_not_active"
    elseif d.licence == nil then
      return "no_licence"
    elseif not d.valid then
      return "licence_invalid"
    end
    return d.licence ~= "ever" and d.licence <= 0 and "licence_expired" or nil
  end

  local function judge(d, all)
    local reason = lack(d)
    if reason then return reason end
    local rank = 1
    for _, other in ipairs(all) do
      if other.user == d.user and not lack(other) and (other.created < d.created
        or other.created == d.created and other.id < d.id) then
        rank = rank + 1
      end
    end
    return rank > ROOM[d.plan] and "too_many_devices" or nil
  end

  local function make(n)
    local d = { hash = "H" .. n, user = math.random(4), created = ("2026-01-%02d"):format(math.random(9)),
      status = pick { "active", "active", "active", "active", "trial", "trial", "registered", "expired", "suspended" },
      trial = pick { false, -1, 5 }, subscription = pick { false, "active", "active", "active", "pending", "cancelled" },
      wish = pick { "starter", "pro", "max", "basic", "premium", "enterprise", "socialtouch_monthly_2980", "", false },
      licence = pick { "ever", 9, 9, -9 }, valid = math.random(8) > 1 }
    if math.random(8) == 1 then
      d.licence = nil
    end
    d.id = s:one([[insert into devices (user_id, device_hash, status, trial_ends_at, created_at)
      values (('00000000-0000-0000-0000-' || lpad($1::text, 12, '0'))::uuid, $2, $3, now() + $4::interval,
        $5::timestamptz) returning id]], { d.user, d.hash, d.status, d.trial and d.trial .. " days" or pg.null,
        d.created }).id
    if d.subscription then
      s:query("insert into subscriptions (device_id, status, plan_id) values ($1, $2, $3)",
        { d.id, d.subscription, d.wish or pg.null })
    end
    if d.licence then
      s:query("insert into licenses (device_id, is_valid, expires_at) values ($1, $2, now() + $3::interval)",
        { d.id, d.valid, d.licence == "ever" and pg.null or d.licence .. " days" })
    end
    d.plan = d.subscription and (MEANT[d.wish] or ROOM[d.wish] and d.wish) or "starter"
    return d
  end

  it("decides alike wherever it is asked, as the rules say", function()
    math.randomseed(20261122)
    -- Rows with former ids, as they were before the trigger that translates them: it must not matter.
    s:query "alter table subscriptions disable trigger ate_translate_plan"
    s:query "alter table subscriptions drop constraint subscriptions_plan_id_plans_name_fkey"
    local all = {}
    for n = 1, 60 do
      all[n] = make(n)
    end
    local together = {}
    for _, row in ipairs(s:query "select * from ate_entitlement(array(select id from devices))") do
      together[row.device_id] = row
    end
    local template = s:value "id from ate_templates"
    for _, d in ipairs(all) do
      s:query([[insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum,
        encryption_key_hash) values ($1, $2, 'f', $3, 1, repeat('a', 64), repeat('a', 64))]], { d.id, template, d.hash })
      local want = judge(d, all) or pg.null
      local alone = s:one("select * from ate_entitlement(array[$1::uuid])", { d.id })
      assert.same({ want, want == pg.null, d.plan }, { alone.reason, alone.entitled, alone.plan_name }, d.hash)
      assert.same(alone, together[d.id])
      assert.equal(want, s:one("select reason from ate_status($1)", { d.hash }).reason, d.hash)
      assert.equal(want, s:one("select reason from ate_download((select id from ate_files where device_id = $1))",
        { d.id }).reason, d.hash)
      assert.equal(alone.entitled, s:one("select is_valid from get_device_plan_info($1)", { d.hash }).is_valid)
    end
    s:clear()
    s:query("insert into file_generation_queue (device_id, template_id) select id, $1 from devices", { template })
    claim(60)
    for _, d in ipairs(all) do
      local row = s:one("select * from file_generation_queue where device_id = $1", { d.id })
      local want = judge(d, all)
      assert.same({ want and "failed" or "processing", want or pg.null }, { row.status, row.error_code }, d.hash)
    end
  end)

  -- ==== what a worker may send ====

  local function member(row, with)
    local m = { queue_id = row.queue_id, attempt = row.attempt, file_path = "generated/a/b.ate", file_size = 1,
      checksum = database.SHA, encryption_key_hash = database.SHA }
    for key, value in pairs(with) do
      m[key] = value
    end
    return m
  end

  it("takes no malformed member, and spoils nothing by one", function()
    s:device { hash = "BAD" }
    local row = claim()[1]
    local id = row.queue_id
    local bare = id:gsub("-", "")
    local cases = {
      { queue_id = bare }, { queue_id = "{" .. id .. "}" }, { queue_id = id .. " " }, { queue_id = id:sub(1, 35) .. "g" },
      { queue_id = ("-"):rep(36) }, { queue_id = bare:sub(1, 8) .. "-" .. bare:sub(9, 11) .. "--" .. bare:sub(12, 33)
        :sub(1, 4) .. "-" .. ("a"):rep(17) }, { queue_id = ("é"):rep(36) }, { queue_id = 7 }, { queue_id = json.null },
      { queue_id = "--------" .. "-aaaa-aaaa-aaaa-aaaaaaaaaaaa" }, { queue_id = "" }, { queue_id = "%" },
      { attempt = -1 }, { attempt = 1.5 }, { attempt = "1e0" }, { attempt = 10000000000 }, { attempt = "" },
      { file_size = "1" }, { file_size = -1 }, { file_size = 0.5 }, { file_size = 1e300 }, { file_size = json.null },
      { checksum = ("a"):rep(63) }, { checksum = ("a"):rep(63) .. "é" }, { checksum = ("a"):rep(65) }, { checksum = 5 },
      { encryption_key_hash = ("x"):rep(64) }, { encryption_key_hash = json.null },
      { file_path = "a/../b" }, { file_path = "a//b" }, { file_path = "/a" }, { file_path = "a\nb" }, { file_path = "" },
      { file_path = ("a"):rep(501) }, { file_path = "a\\b" }, { file_path = "." }, { generated_variables = json.array {} },
    }
    local list = json.array {}
    for i, with in ipairs(cases) do
      list[i] = member(row, with)
    end
    list[#list + 1] = member(row, { queue_id = id:upper(), checksum = ("AB"):rep(32), file_size = 123456789012345678 })
    local rows = s:query("select * from complete_ate_generations($1)", { json.encode(list) })
    assert.equal(#list, #rows)
    for i, with in ipairs(cases) do
      assert.equal("malformed: " .. next(with), rows[i].error, json.encode(list[i]))
      assert.equal(pg.null, rows[i].ate_file_id)
    end
    assert.equal(pg.null, rows[#rows].error)
    local file = s:one "select * from ate_files"
    assert.same({ ("ab"):rep(32), 123456789012345678 }, { file.checksum, file.file_size_bytes })
  end)

  -- ==== a job's life ====

  it("builds with the plan of the claim, and once more for a change that comes meanwhile", function()
    local id = s:device { hash = "MID", plan = "starter" }
    local first = claim()[1]
    s:query("update subscriptions set plan_id = 'premium' where device_id = $1", { id })
    assert.equal(0, #claim(5, "host-2-b")) -- nothing beside one that is processing
    s:complete(first)
    local file = s:one "select * from ate_files"
    assert.same({ first.plan_tools, 1 }, { file.tools, file.generation })
    local second = claim(5, "host-2-b")[1]
    assert.same({ "pro", 2 }, { second.plan_name, second.generation })
    assert.equal(file.id, s:complete(second))
    assert.equal(6, s:value "jsonb_array_length(tools) from ate_files")
    local former = s:one "select * from ate_file_versions"
    assert.same({ file.id, file.file_path, 1, false, first.plan_tools },
      { former.ate_file_id, former.file_path, former.generation, former.is_active, former.tools })
    -- Down again: what is there is beyond the plan until the smaller file is.
    s:query("update subscriptions set plan_id = 'basic' where device_id = $1", { id })
    assert.equal("beyond_plan", s:one "select reason from ate_status('MID')".reason)
    s:complete(claim()[1])
    assert.is_true(s:one "select is_ready from ate_status('MID')".is_ready)
  end)

  it("costs no retry to be handed back, however often, and never forgets an attempt", function()
    s:device { hash = "BACK" }
    for n = 1, 12 do
      local row = claim(1, "host-1-" .. n)[1]
      assert.same({ n, 0 }, { row.attempt, row.retry_count })
      assert.equal(1, s:value("release_ate_generations($1)", { "host-1-" .. n }))
    end
    s:query "update file_generation_queue set max_retries = 0"
    local row = claim()[1]
    for attempt = 1, 12 do
      local state = s:query "savepoint one" and s:refused("select complete_ate_generation($1, 'x', 1, $2, $2, $3)",
        { row.queue_id, database.SHA, attempt })
      assert.equal("AT005", state)
      s:query "rollback to one"
    end
    assert.equal("failed", s:value("fail_ate_generation($1, 'x')", { row.queue_id }))
    assert.equal(13, job(row.queue_id).attempt)
  end)

  it("ends a job that kills every worker after max_retries and one runs", function()
    s:device { hash = "POISON" }
    s:query "set local atelier.worker_lock = off" -- as behind a pooler: nothing but the lease
    local id
    for run = 1, 4 do
      local row = claim(1, "host-9-" .. run)[1]
      id = row.queue_id
      assert.equal(run, row.attempt)
      assert.is_false(s:value("lock_held from ate_workers where worker_id = $1", { "host-9-" .. run }))
      assert.equal(0, s:value "rescue_ate_generations()") -- its lease goes on
      s:query "update file_generation_queue set lease_until = clock_timestamp() - interval '1 ms'"
      s:query "update file_generation_queue set run_after = clock_timestamp()"
      if run < 4 then
        assert.equal(1, s:value "rescue_ate_generations()")
      end
    end
    assert.equal(0, #claim(1, "host-9-5")) -- any claim may be the one that finds it
    local row = job(id)
    assert.same({ "failed", "lease_over", 4, 3, pg.null }, { row.status, row.error_code, row.attempt, row.retry_count,
      row.lease_until })
  end)

  it("takes no end without an attempt for a job that is not processing", function()
    s:device { hash = "NULL" }
    local row = claim()[1]
    local complete = { "select complete_ate_generation($1, 'generated/x', 1, $2, $2)", { row.queue_id, database.SHA } }
    local fail = { "select fail_ate_generation($1, 'x')", { row.queue_id } }
    for _, change in ipairs {
      { "cancelled", "select cancel_ate_generation($1, 'enough')" }, { "queued", "select retry_ate_generation($1)" } } do
      s:query(change[2], { row.queue_id })
      for _, call in ipairs { complete, fail } do
        s:query "savepoint one"
        local state, _, fields = s:refused(call[1], call[2])
        assert.same({ "AT007", change[1] }, { state, fields.detail })
        s:query "rollback to one"
      end
    end
    assert.equal(0, s:value "count(*) from ate_files")
    claim()
    s:query(complete[1], complete[2])
    assert.equal("completed", job(row.queue_id).status)
  end)

  it("lets what waits longest pass, however many come with more urgency", function()
    s:device { hash = "SLOW" }
    s:query "update file_generation_queue set priority = 10, run_after = now() - interval '271 seconds'"
    for n = 1, 5 do
      s:device { hash = "FAST" .. n, user = n + 1 }
    end
    s:query "update file_generation_queue set priority = 1 where priority <> 10"
    assert.equal("SLOW", claim()[1].device_hash)
  end)
end)
