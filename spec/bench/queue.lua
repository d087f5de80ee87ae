--- The queue alone: jobs per second and processor time per job, with no work done for them. Each of the connections is
-- a process that sends what a worker sends (workflow.ledger): one transaction completes a batch and claims the next.
-- Three ways, interleaved: as it is; with a million finished jobs behind it; with a snapshot that nothing may pass.
-- @module spec.bench.queue
local clock = require "clock"
local host = require "atelier.host"
local lab = require "spec.bench.lab"
local ledger = require "workflow.ledger"
local pg = require "atelier.pg"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local JOBS = tonumber(os.getenv "JOBS") or 20000
local CONNECTIONS = tonumber(os.getenv "CONNECTIONS") or 2
local BATCH = tonumber(os.getenv "BATCH") or 32
local FINISHED = tonumber(os.getenv "FINISHED") or 1000000
local SHA = ("a"):rep(64)

-- ==== the database ====

-- One user with one device each. Every device has had a file built before: a job replaces it, which costs most.
local CUSTOMERS = {
  "set session_replication_role = replica", -- nothing is queued yet, and nothing need be checked
  [[insert into auth.users (id) select md5('user ' || i)::uuid from generate_series(1, %d) i]],
  [[insert into devices (id, user_id, device_hash, status)
      select md5('device ' || i)::uuid, md5('user ' || i)::uuid, 'BENCH-' || i, 'active' from generate_series(1, %d) i]],
  [[insert into licenses (device_id, expires_at) select id, now() + interval '300 days' from devices]],
  [[insert into subscriptions (device_id, status, plan_id) select id, 'active', 'pro' from devices]],
  [[select publish_ate_template('smartgram', '1.0.0', 'templates/smartgram.at/',
      '[{"file": "main.lua", "type": "lua", "required": true}]', '["device_hash"]', repeat('a', 64))]],
  [[insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum, encryption_key_hash)
      select d.id, t.id, 'f', 'generated/' || d.device_hash || '/smartgram_0.ate', 1, repeat('a', 64), repeat('a', 64)
      from devices d, ate_templates t]],
}

-- As many finished jobs as a busy shop has in weeks, when nothing trims them.
local HISTORY = [[insert into file_generation_queue (device_id, template_id, status, attempt, created_at, claimed_at,
    finished_at, device_hash, plan_tools, worker_id)
  select md5('device ' || 1 + i %% %d)::uuid, t.id, 'completed', 1, now() - i * interval '100 ms',
    now() - i * interval '100 ms', now() - i * interval '100 ms', 'BENCH', '["timeline"]', 'bench'
  from generate_series(1, %d) i, ate_templates t]]

local FILL = [[insert into file_generation_queue (device_id, template_id)
  select d.id, t.id from devices d, ate_templates t order by d.id limit $1]]

local function set_up(cluster, name, finished)
  local url = lab.database(cluster, name)
  lab.shell(("env DATABASE_URL='%s' ATELIER_STATE='%s/queue' ATELIER_LOG=warn '%s' migrate 2>&1")
    :format(url, lab.folder, host.exe))
  local conn = assert(pg.connect(url, { timeout = 600 }))
  for _, sql in ipairs(CUSTOMERS) do
    assert(conn:exec(sql:format(JOBS)))
  end
  if finished > 0 then
    assert(conn:exec(HISTORY:format(JOBS, finished), { timeout = 600 }))
  end
  assert(conn:exec "set session_replication_role = origin")
  assert(conn:exec("vacuum analyze", { timeout = 600 }))
  return { url = url, conn = conn, finished = finished }
end

-- ==== a worker without work ====

local CONFIG = { database_timeout = 60, worker_lease = 60 }

local function items(jobs)
  local list = {}
  for i, job in ipairs(jobs) do
    list[i] = { job = job, artifact = {
      key = ("generated/%s/%s_%s_%d.ate"):format(job.device_hash, job.template_name, job.queue_id, job.attempt),
      size = 70000, checksum = SHA, encryption_key_hash = SHA, verdict = "ok",
      usage = { instructions = 12345, memory = 123456, seconds = 0.001 },
      variables = { artifact_id = job.queue_id, device_hash = job.device_hash, plan = job.plan_name,
        plan_tools = job.plan_tools, expires_at = "2030-01-01T00:00:00Z", issued_at = "2029-01-01T00:00:00Z",
        template = job.template_name, version = job.template_version, generation = job.generation,
        container = job.container, master_key_id = "m-1", signer_id = "0123456789abcdef" },
    } }
  end
  return list
end

-- Until nothing is left to claim. Gives the number of the jobs completed.
local function work(url)
  local conn = assert(pg.connect(url))
  local queue = ledger.new { conn = conn, store = {}, config = CONFIG, on_event = function() end }
  repeat
    local jobs = assert(queue:exchange(BATCH))
    queue.stored = items(jobs)
  until #jobs == 0
  assert(queue:release())
  conn:close()
  return queue.counts.completed
end

-- ==== measuring ====

local function start(url)
  local pid = assert(unistd.fork())
  if pid == 0 then
    local ok, problem = pcall(work, url)
    if not ok then
      io.stderr:write(tostring(problem), "\n")
    end
    unistd._exit(ok and 0 or 1)
  end
  return pid
end

local function hold_snapshot(url)
  local conn = assert(pg.connect(url))
  assert(conn:exec "begin isolation level repeatable read")
  assert(conn:query "select count(*) from plans")
  return conn
end

local COMPLETED = "select count(*) as n from file_generation_queue where status = 'completed' and claimed_at >= $1"

local function measure(cluster, database, pinned)
  local conn = database.conn
  local pin = pinned and hold_snapshot(database.url)
  local began_at = assert(conn:query "select clock_timestamp()::text as at")[1].at
  assert(conn:query(FILL, { JOBS }, { timeout = 120 }))
  local server, client, began = lab.family_cpu(cluster.pid), lab.family_cpu(unistd.getpid()), clock.now()
  local children = {}
  for i = 1, CONNECTIONS do
    children[i] = start(database.url)
  end
  for _, pid in ipairs(children) do
    local _, _, status = wait.wait(pid)
    assert(status == 0, "a connection failed")
  end
  local seconds = clock.now() - began
  lab.pause(0.3) -- what a backend has used is counted once its parent has seen it end
  server = lab.family_cpu(cluster.pid) - server
  client = lab.family_cpu(unistd.getpid()) - client
  assert(conn:query(COMPLETED, { began_at })[1].n == JOBS, "not every job was completed")
  if pin then
    pin:close()
  end
  -- The next round finds what this one found.
  assert(conn:query("delete from file_generation_queue where claimed_at >= $1", { began_at }, { timeout = 120 }))
  assert(conn:exec "truncate ate_file_versions")
  assert(conn:exec("vacuum file_generation_queue, ate_files", { timeout = 120 }))
  return { rate = JOBS / seconds, server = server * 1e6 / JOBS, client = client * 1e6 / JOBS }
end

-- ==== the run ====

local function report(kinds, runs)
  print(("\nmedians of %d interleaved rounds; %d jobs a round, %d connections, batches of %d"):format(ROUNDS, JOBS,
    CONNECTIONS, BATCH))
  for _, kind in ipairs(kinds) do
    local figures = runs[kind.name]
    local rates = table.move(figures.rate, 1, #figures.rate, 1, {})
    table.sort(rates)
    print(("  %-36s %8.0f jobs/s  (%.0f to %.0f), CPU %.0f us each in Postgres, %.0f us in the workers"):format(
      kind.name, lab.median(rates), rates[1], rates[#rates], lab.median(figures.server), lab.median(figures.client)))
  end
  local plain = runs[kinds[1].name]
  for i = 2, #kinds do
    local figures = runs[kinds[i].name]
    print(("  %-36s %8.0f %% of the rate, %.0f %% of Postgres' CPU"):format(kinds[i].name .. " / " .. kinds[1].name,
      100 * lab.median(figures.rate) / lab.median(plain.rate),
      100 * lab.median(figures.server) / lab.median(plain.server)))
  end
end

--- Runs it and prints the figures.
function M.run()
  print "== queue: jobs that need no work, synchronous_commit on (bar: 10,000 jobs/s, goal 15,000)"
  local cluster = lab.cluster()
  local plain = set_up(cluster, "bench_queue", 0)
  local full = FINISHED > 0 and set_up(cluster, "bench_queue_full", FINISHED)
  local kinds = { { name = "plain", database = plain }, { name = "with a pinned snapshot", database = plain, pinned = true } }
  if full then
    table.insert(kinds, 2, { name = ("%d finished jobs behind it"):format(FINISHED), database = full })
  end
  local runs = {}
  for round = 1, ROUNDS do
    for _, kind in ipairs(kinds) do
      io.stderr:write(("  round %d of %d: %-40s\r"):format(round, ROUNDS, kind.name))
      local result = measure(cluster, kind.database, kind.pinned)
      runs[kind.name] = runs[kind.name] or { rate = {}, server = {}, client = {} }
      for figure, list in pairs(runs[kind.name]) do
        list[#list + 1] = result[figure]
      end
    end
  end
  report(kinds, runs)
  for _, database in ipairs { plain, full or nil } do
    database.conn:close()
  end
end

return M
