--- Bundles per second and processor time per bundle, beside the Node peer and the disk's own limit, interleaved.
-- @module spec.bench.bundles
local clock = require "clock"
local json = require "atelier.json"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"
local pg = require "atelier.pg"
local the_peer = require "spec.bench.peer"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local JOBS = tonumber(os.getenv "JOBS") or 3000
local PEER_JOBS = tonumber(os.getenv "PEER_JOBS") or 600
local BUNDLE_BYTES = 70000
local WARM = 64

local function atelier(words, env)
  local parts = {}
  for name, value in pairs(env) do
    parts[#parts + 1] = ("%s='%s'"):format(name, value)
  end
  return lab.shell(("env %s %s %s 2>&1"):format(table.concat(parts, " "), require("atelier.host").exe, words))
end

-- $1 customers buy plan pro, each with one device: as a shop would record it, in one transaction. $2 tells runs apart.
local PURCHASE = {
  [[insert into auth.users (id) select md5($2 || ' user ' || i)::uuid from generate_series(1, $1::int) i]],
  [[insert into devices (id, user_id, device_hash, device_model, status)
      select md5($2 || ' device ' || i)::uuid, md5($2 || ' user ' || i)::uuid, $2 || '-' || i, 'bench', 'active'
      from generate_series(1, $1::int) i]],
  [[insert into licenses (device_id, is_valid, expires_at)
      select md5($2 || ' device ' || i)::uuid, true, now() + interval '365 days' from generate_series(1, $1::int) i]],
  [[insert into subscriptions (device_id, status, plan_id)
      select md5($2 || ' device ' || i)::uuid, 'active', 'pro' from generate_series(1, $1::int) i]],
}

local batches = 0

local function purchase(conn, count)
  batches = batches + 1
  for _, sql in ipairs(PURCHASE) do
    assert(conn:query(sql, { count, "run" .. batches }, { timeout = 120 }))
  end
end

local function set_up(cluster)
  local folder = lab.folder .. "/atelier"
  lab.shell(("rm -rf '%s' && mkdir -p '%s/templates'"):format(folder, folder))
  make_template.write(folder .. "/templates/bench.at")
  local env = { DATABASE_URL = lab.database(cluster, "bench_atelier"), ATELIER_STATE = folder,
    ATELIER_TEMPLATES = folder .. "/templates", ATELIER_LOG = "warn" }
  atelier("migrate", env)
  atelier("template publish bench", env)
  local conn = assert(pg.connect(env.DATABASE_URL, { timeout = 120 }))
  assert(conn:exec "update ate_templates set is_active = (name = 'bench')")
  return { env = env, conn = conn, folder = folder }
end

-- Two questions, each of which a partial index answers: a look must cost next to nothing.
local BUSY = [[select exists (select from file_generation_queue where status = 'queued')
  or exists (select from file_generation_queue where status = 'processing' and lease_until is not null) as busy]]

local function idle(conn)
  return function()
    return not assert(conn:query(BUSY))[1].busy
  end
end

-- Each run writes into a folder of its own, and nothing is deleted before the end: ext4 is slow to make files where it
-- remembers recently deleted ones (half of all processor time, as measured), which would fall on whoever comes next.
local folders = 0

local function fresh_folder(name)
  folders = folders + 1
  local path = ("%s/out/%s-%d"):format(lab.folder, name, folders)
  lab.shell(("mkdir -p '%s'"):format(path))
  return path
end

-- Workers are running and warm; the purchases are committed in one transaction; the clock stops when the last file is
-- recorded.
local function measure(lab_state, cluster, workers, check)
  local conn, running = lab_state.conn, {}
  lab_state.env.ATELIER_STORAGE = fresh_folder "atelier"
  lab_state.env.ATELIER_CHECK = check and "yes" or "no"
  for i = 1, workers do
    running[i] = lab.start({ "work" }, lab_state.env)
  end
  purchase(conn, WARM)
  lab.await(idle(conn), 30, "warm-up")
  local function workers_cpu()
    local total = 0
    for _, process in ipairs(running) do
      total = total + process.cpu()
    end
    return total
  end
  assert(conn:exec "begin")
  purchase(conn, JOBS)
  local postgres_before, workers_before, began = lab.family_cpu(cluster.pid), workers_cpu(), clock.now()
  assert(conn:exec "commit")
  lab.await(idle(conn), 120, "all bundles")
  local seconds = clock.now() - began
  local postgres_ms = (lab.family_cpu(cluster.pid) - postgres_before) * 1000 / JOBS
  local workers_ms = (workers_cpu() - workers_before) * 1000 / JOBS
  for _, process in ipairs(running) do
    process.stop()
  end
  return { rate = JOBS / seconds, cpu_ms = postgres_ms + workers_ms, postgres_ms = postgres_ms }
end

local function disk_limit(threads)
  return tonumber(lab.shell(("'%s/disk' '%s' %d 2000 %d"):format(lab.folder, fresh_folder "disk", threads, BUNDLE_BYTES)))
end

-- ==== the peer ====

local function peer_set_up(cluster, folder)
  local url = lab.database(cluster, "bench_peer")
  lab.shell(("cd '%s' && node peer.mjs setup --database '%s' --devices %d"):format(folder, url, PEER_JOBS + WARM))
  return { folder = folder, url = url }
end

local function peer_measure(peer, template, flags)
  local text = lab.shell(("cd '%s' && node peer.mjs bundles --database '%s' --template '%s' --out '%s' --jobs %d %s")
    :format(peer.folder, peer.url, template, fresh_folder "peer", PEER_JOBS, flags))
  local result = assert(json.decode(text))
  return { rate = result.jobs_per_s, cpu_ms = result.cpu_seconds * 1000 / PEER_JOBS }
end

-- The peer is given its best settings on this machine: each is tried once, the fastest is measured.
local function peer_best(peer, template, extra)
  local best, flags = 0, nil
  for _, queue in ipairs { "graphile", "plain" } do
    for _, concurrency in ipairs { 8, 16 } do
      for _, processes in ipairs { 1, 2 } do
        local try = ("--queue %s --concurrency %d --processes %d%s"):format(queue, concurrency, processes, extra)
        local rate = peer_measure(peer, template, try).rate
        if rate > best then
          best, flags = rate, try
        end
      end
    end
  end
  return flags
end

-- ==== the run ====

local OURS = {
  { name = "1 worker", workers = 1 },
  { name = "2 workers", workers = 2 },
  { name = "1 worker, every bundle run", workers = 1, check = true },
  { name = "2 workers, every bundle run", workers = 2, check = true },
}

local function collect(into, name, result)
  into[name] = into[name] or { rate = {}, cpu_ms = {}, postgres_ms = {} }
  for figure, list in pairs(into[name]) do
    list[#list + 1] = result[figure]
  end
end

local function line(name, runs)
  local rates = table.move(runs.rate, 1, #runs.rate, 1, {})
  table.sort(rates)
  local cpu = #runs.cpu_ms > 0 and (", CPU %.2f ms each"):format(lab.median(runs.cpu_ms)) or ""
  if #runs.postgres_ms > 0 then
    cpu = cpu .. (" (Postgres %.2f of it)"):format(lab.median(runs.postgres_ms))
  end
  print(("  %-36s %8.0f /s  (%.0f to %.0f)%s"):format(name, lab.median(rates), rates[1], rates[#rates], cpu))
end

local function ratio(label, a, b, unit)
  print(("  %-52s %6.2f%s"):format(label, unit == " %" and 100 * a / b or a / b, unit))
end

local function report(runs, disk, best_threads, flags)
  print(("\nmedians of %d interleaved rounds; %d bundles a run (peer: %d)"):format(ROUNDS, JOBS, PEER_JOBS))
  for _, kind in ipairs(OURS) do
    line(kind.name, runs[kind.name])
  end
  for name in pairs(flags) do
    line(name, runs[name])
  end
  line(("disk, write+fsync+rename, %d threads"):format(best_threads), { rate = disk, cpu_ms = {}, postgres_ms = {} })
  local function rate(name)
    return lab.median(runs[name].rate)
  end
  print()
  for name, settings in pairs(flags) do
    print(("  %s: %s"):format(name, settings))
    for _, kind in ipairs(OURS) do
      ratio(kind.name .. " / " .. name, rate(kind.name), rate(name), " x")
    end
  end
  ratio("2 workers / disk limit", rate "2 workers", lab.median(disk), " %")
end

--- Runs it and prints the figures.
function M.run()
  print "== bundles per second: 250 KB of Lua in 8 files, durable local storage, synchronous_commit on"
  lab.shell(("cc -O2 -pthread -o '%s/disk' '%s/spec/bench/disk.c'"):format(lab.folder, lab.root))
  local cluster = lab.cluster()
  local state = set_up(cluster)
  local template = state.folder .. "/templates/bench.at"
  local found, flags, runs, disk = the_peer.find(), {}, {}, {}
  local peer = found and peer_set_up(cluster, found)
  if peer then
    flags["peer"] = peer_best(peer, template, "")
    flags["peer --cache-deflate"] = peer_best(peer, template, " --cache-deflate")
  else
    print "  no peer: set PEER to the folder of peer.mjs for the comparison"
  end
  local best, best_threads = 0, 1
  for _, threads in ipairs { 1, 2, 4, 8, 16, 32 } do
    local rate = disk_limit(threads)
    if rate > best then
      best, best_threads = rate, threads
    end
  end
  for round = 1, ROUNDS do
    io.stderr:write(("  round %d of %d\r"):format(round, ROUNDS))
    for name, settings in pairs(flags) do
      collect(runs, name, peer_measure(peer, template, settings))
    end
    for _, kind in ipairs(OURS) do
      collect(runs, kind.name, measure(state, cluster, kind.workers, kind.check))
    end
    disk[#disk + 1] = disk_limit(best_threads)
  end
  report(runs, disk, best_threads, flags)
  state.conn:close()
  lab.shell(("rm -rf '%s/out'"):format(lab.folder))
end

return M
