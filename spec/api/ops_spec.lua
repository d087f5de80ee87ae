local api = require "spec.support.api"
local json = require "atelier.json"

local service, operator

local STATE = { generation = 4, started_at = "2026-01-01T00:00:00Z", pid = 77,
  reload = { ok = false, at = "2026-01-02T00:00:00Z", message = "plans.lua:3: unexpected symbol" },
  processes = { { name = "front 1", pid = 78, generation = 4, restarts = 2, since = "2026-01-02T00:00:00Z" } } }
local NOBODY = "00000000-0000-4000-8000-000000000000"

local function query(sql, params)
  return assert(service.conn:query(sql, params))
end

local function get(path)
  return service:get("/api/ops/" .. path, { token = operator })
end

local function post(path, body)
  return service:post("/api/ops/" .. path, body or {}, { token = operator })
end

local function job_of(plan)
  return query("select id::text as id from file_generation_queue where device_id = $1::uuid order by created_at desc",
    { service[plan].device })[1].id
end

local function claim()
  return query "select queue_id::text as id, attempt, device_id::text as device from claim_ate_generations('host:12:abc', 10)"
end

local function fail(id, message)
  query("select fail_ate_generation($1::uuid, $2, null, true)", { id, message or "check: main.lua:3: broken" })
end

local function complete(id)
  query("select complete_ate_generation($1::uuid, 'generated/' || $1 || '.ate', 10, $2, $2)", { id, ("ab"):rep(32) })
end

describe("an operator", function()
  before_each(function()
    service = api.start { state = STATE }
    operator = service:operator()
  end)
  after_each(function() service:stop() end)

  it("is who has an operator's token", function()
    local id = job_of "pro"
    local user = service:token(service.pro.user)
    for _, path in ipairs { "queue", "series", "jobs", "jobs/" .. id, "workers", "state", "templates" } do
      assert.equal(403, service:get("/api/ops/" .. path, { token = user }).status, path)
      assert.equal(401, service:get("/api/ops/" .. path).status, path)
      assert.equal(200, get(path).status, path)
    end
    for _, verb in ipairs { "redrive", "cancel" } do
      local path = ("/api/ops/jobs/%s/%s"):format(id, verb)
      assert.equal(403, service:post(path, {}, { token = user }).status)
      assert.equal(401, service:post(path, {}).status)
      assert.equal(405, service:get(path, { token = operator }).status)
    end
    assert.equal("queued", query("select status from file_generation_queue where id = $1::uuid", { id })[1].status)
  end)

  it("sees how much there is", function()
    query("update file_generation_queue set run_after = now() + interval '1 hour', priority = 7 where id = $1::uuid", { job_of "max" })
    local queue = get("queue").json
    assert.same({ jobs = 3, ready = 2 }, { jobs = queue.states.queued.jobs, ready = queue.states.queued.ready })
    assert.is_true(queue.states.queued.oldest_seconds >= 0)
    assert.equal(0, queue.states.processing.jobs)
    assert.equal(json.null, queue.states.processing.oldest_seconds)
    assert.equal(2, #queue.priorities)
    assert.equal(5, queue.priorities[1].priority)
    assert.equal(2, queue.priorities[1].jobs)
    assert.equal(0, queue.priorities[2].ready)
    local jobs = claim()
    assert.equal(2, #jobs)
    fail(jobs[1].id)
    complete(jobs[2].id)
    local states = get("queue").json.states
    assert.same({ 1, 0, 1, 1, 0 }, { states.queued.jobs, states.processing.jobs, states.completed.jobs, states.failed.jobs,
      states.cancelled.jobs })
  end)

  it("sees an empty queue", function()
    query "delete from file_generation_queue"
    local queue = get("queue").json
    for _, state in pairs(queue.states) do
      assert.equal(0, state.jobs)
    end
    assert.same({}, queue.priorities)
    assert.same({}, get("jobs").json.items)
  end)

  it("sees throughput and latency by minute", function()
    local jobs = claim()
    fail(jobs[1].id)
    complete(jobs[2].id)
    query "update file_generation_queue set created_at = finished_at - interval '3 s', claimed_at = finished_at - interval '1 s' where finished_at is not null"
    local items = get("series?minutes=5").json.items
    assert.equal(6, #items)
    local completed, failed, total, empty = 0, 0, nil, nil
    for _, item in ipairs(items) do
      completed, failed = completed + item.completed, failed + item.failed
      if item.completed > 0 then total = item else empty = item end
    end
    assert.same({ 1, 1 }, { completed, failed })
    assert.same({ p50 = 3000, p95 = 3000 }, total.total_ms)
    assert.same({ p50 = 2000, p95 = 2000 }, total.wait_ms)
    assert.same({ p50 = 1000, p95 = 1000 }, total.run_ms)
    assert.same({ p50 = json.null, p95 = json.null }, empty.total_ms)
    assert.equal(61, #get("series").json.items)
    for _, odd in ipairs { "0", "-1", "1441", "x", "1e2", "" } do
      assert.equal(400, get("series?minutes=" .. odd).status, odd)
    end
  end)

  it("lists jobs by page, each once", function()
    for n = 1, 25 do
      query([[insert into file_generation_queue (device_id, template_id, status, finished_at, error_code, error_message)
        select $1::uuid, id, 'failed', now() - $2::int * interval '1 s', 'check', 'broken' from ate_templates]], { service.pro.device, n })
    end
    for _, filter in ipairs { "", "&state=failed", "&device_hash=DEV-PRO" } do
      local seen, count, after = {}, 0, nil
      repeat
        local answer = get("jobs?limit=7" .. filter .. (after and "&after=" .. after or ""))
        assert.equal(200, answer.status)
        for _, job in ipairs(answer.json.items) do
          assert.is_nil(seen[job.queue_id])
          seen[job.queue_id], count = true, count + 1
        end
        after = answer.json.next ~= json.null and answer.json.next or nil
      until not after
      assert.equal(({ [""] = 28, ["&state=failed"] = 25, ["&device_hash=DEV-PRO"] = 26 })[filter], count, filter)
    end
    assert.equal(3, #get("jobs?state=queued").json.items)
    assert.equal(0, #get("jobs?device_hash=nobody").json.items)
    local failed = get("jobs?state=failed&limit=1").json.items[1]
    assert.same({ code = "check", message = "broken" }, failed.error)
    assert.equal("DEV-PRO", failed.device_hash)
    assert.equal("smartgram", failed.template)
    for _, odd in ipairs { "state=x", "limit=0", "limit=201", "limit=x", "after=x", "after=W10", "device_hash=%2e", "color=red",
      "state=queued&state=failed" } do
      assert.equal(400, get("jobs?" .. odd).status, odd)
    end
  end)

  it("sees one job, also when it has left the queue", function()
    local id = job_of "pro"
    claim()
    fail(id)
    local job = get("jobs/" .. id).json
    assert.equal("failed", job.state)
    assert.same({ code = "check", message = "check: main.lua:3: broken" }, job.error)
    assert.is_false(job.is_history)
    query "select trim_ate_queue(1000, interval '-1 s')"
    local former = get("jobs/" .. id:upper()).json
    assert.is_true(former.is_history)
    assert.equal(id, former.queue_id)
    assert.same(job.error, former.error)
    assert.equal(404, get("jobs/" .. NOBODY).status)
    assert.equal(400, get("jobs/1").status)
  end)

  it("runs a failed job again, from the history too", function()
    local id = job_of "pro"
    claim()
    assert.equal(409, post("jobs/" .. id .. "/redrive").status)
    fail(id)
    local answer = post("jobs/" .. id .. "/redrive")
    assert.equal(202, answer.status)
    assert.same({ queue_id = id, state = "queued" }, answer.json)
    claim()
    fail(id)
    query "select trim_ate_queue(1000, interval '-1 s')"
    answer = post("jobs/" .. id .. "/redrive")
    assert.equal(202, answer.status)
    assert.equal("queued", get("jobs/" .. answer.json.queue_id).json.state)
    assert.equal(answer.json.queue_id, post("jobs/" .. id .. "/redrive").json.queue_id)
    assert.equal(404, post("jobs/" .. NOBODY .. "/redrive").status)
    assert.equal(400, post("jobs/" .. id .. "/redrive", { force = true }).status)
    -- Nothing of the body is required, so it may be left out.
    local client = service:connect()
    client:send(("POST /api/ops/jobs/%s/redrive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"):format(
      id, operator))
    assert.equal(202, client:response().status)
    client:close()
    local done = job_of "max"
    query("update file_generation_queue set status = 'completed', finished_at = now(), lease_until = null where id = $1::uuid", { done })
    assert.equal("bad_state", post("jobs/" .. done .. "/redrive").json.code)
  end)

  it("stops a job for good", function()
    local id = job_of "pro"
    local answer = post("jobs/" .. id .. "/cancel", { reason = "refunded" })
    assert.equal(200, answer.status)
    assert.same({ queue_id = id, state = "cancelled" }, answer.json)
    local job = get("jobs/" .. id).json
    assert.equal("cancelled", job.state)
    assert.same({ code = "cancelled", message = "cancelled: refunded" }, job.error)
    local again = post("jobs/" .. id .. "/cancel")
    assert.equal(409, again.status)
    assert.equal("cancelled", again.json.details)
    assert.equal(404, post("jobs/" .. NOBODY .. "/cancel").status)
    assert.equal(400, post("jobs/" .. id .. "/cancel", { reason = ("x"):rep(201) }).status)
    assert.equal(400, post("jobs/" .. id .. "/cancel", { reason = 1 }).status)
    -- One that runs: its worker's result is worth nothing any more.
    local running = claim()[1]
    assert.equal(200, post("jobs/" .. running.id .. "/cancel").status)
    local _, _, code = service.conn:query("select complete_ate_generation($1::uuid, 'a/b', 1, $2, $2)", { running.id, ("ab"):rep(32) })
    assert.equal("AT007", code)
  end)

  it("sees workers and what they hold", function()
    claim()
    local items = get("workers").json.items
    assert.equal(1, #items)
    local worker = items[1]
    assert.equal("host:12:abc", worker.worker_id)
    assert.equal("host", worker.host)
    assert.equal(12, worker.pid)
    assert.equal(3, worker.jobs)
    assert.equal(3, #worker.queue_ids)
    assert.is_true(worker.alive)
    assert.is_true(worker.lock_held)
    assert.matches("^%d+%-", worker.lease_until)
    query "select release_ate_generations('host:12:abc')"
    worker = get("workers").json.items[1]
    assert.is_false(worker.alive)
    assert.is_false(worker.lock_held)
    assert.equal("released", worker.gone_reason)
    assert.same({}, worker.queue_ids)
  end)

  it("sees generation, reload and processes", function()
    local state = get("state").json
    assert.equal(4, state.generation)
    assert.same({ ok = false, at = "2026-01-02T00:00:00Z", message = "plans.lua:3: unexpected symbol" }, state.reload)
    assert.same(STATE.processes, state.processes)
    assert.is_true(state.front.connections >= 1)
    assert.equal(0, state.front.streams)
    assert.equal(0, state.front.unrecorded_downloads)
  end)

  it("sees templates, inactive ones too", function()
    query [[select publish_ate_template('aaa', '1.2.3', 'templates/aaa.at/', '[]', '[]', repeat('cd', 32), 'first')]]
    query "update ate_templates set is_active = false where name = 'smartgram'"
    local page = get("templates?limit=1").json
    assert.equal("aaa", page.items[1].name)
    assert.equal("1.2.3", page.items[1].version)
    assert.equal(1, page.items[1].versions)
    local second = get("templates?limit=1&after=" .. page.next).json
    assert.equal("smartgram", second.items[1].name)
    assert.is_false(second.items[1].is_active)
    assert.equal(json.null, second.next)
  end)
end)

describe("the service's state", function()
  it("is told where there is no master", function()
    service = api.start()
    operator = service:operator()
    local state = get("state").json
    assert.equal(json.null, state.generation)
    assert.equal(json.null, state.reload)
    assert.same({}, state.processes)
    service:stop()
  end)
end)
