--- A shop whose workers are measured: purchases in one transaction, workers that run and are warm, the clock until the
-- last file is recorded; and the peer at the same task.
-- @module spec.bench.factory
local clock = require "clock"
local json = require "atelier.json"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"
local pg = require "atelier.pg"

local M = {}

local WARM = 64
local CONNECTIONS = 90 -- that a peer may take of a Postgres with 100; each of its processes has 2 more than jobs in hand

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

--- A database and a folder with the benchmark's template.
-- @tparam table cluster
-- @treturn table shop: env, conn, folder
function M.set_up(cluster)
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

--- A new folder for one run.
-- @tparam string name
-- @treturn string
function M.fresh_folder(name)
  folders = folders + 1
  local path = ("%s/out/%s-%d"):format(lab.folder, name, folders)
  lab.shell(("mkdir -p '%s'"):format(path))
  return path
end

--- Workers are running and warm; the purchases are committed in one transaction; the clock stops when the last file is
-- recorded.
-- @tparam table shop
-- @tparam table cluster
-- @tparam table options jobs · workers · check (every bundle is run) · env
-- @treturn table rate, cpu_ms, postgres_ms
function M.measure(shop, cluster, options)
  local conn, running, jobs, env = shop.conn, {}, options.jobs, {}
  for _, list in ipairs { shop.env, options.env or {} } do
    for name, value in pairs(list) do
      env[name] = value
    end
  end
  env.ATELIER_STORAGE = M.fresh_folder "atelier"
  env.ATELIER_CHECK = options.check and "yes" or "no"
  for i = 1, options.workers do
    running[i] = lab.start({ "work" }, env)
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
  purchase(conn, jobs)
  local postgres_before, workers_before, began = lab.family_cpu(cluster.pid), workers_cpu(), clock.now()
  assert(conn:exec "commit")
  lab.await(idle(conn), 120, "all bundles")
  local seconds = clock.now() - began
  local postgres_ms = (lab.family_cpu(cluster.pid) - postgres_before) * 1000 / jobs
  local workers_ms = (workers_cpu() - workers_before) * 1000 / jobs
  for _, process in ipairs(running) do
    process.stop()
  end
  return { rate = jobs / seconds, cpu_ms = postgres_ms + workers_ms, postgres_ms = postgres_ms }
end

-- ==== the peer ====

--- The peer with its database.
-- @tparam table cluster
-- @tparam string folder as of `spec.bench.peer`
-- @tparam integer jobs
-- @treturn table peer; `prefix` goes before its command
function M.peer(cluster, folder, jobs)
  local url = lab.database(cluster, "bench_peer")
  lab.shell(("cd '%s' && node peer.mjs setup --database '%s' --devices %d"):format(folder, url, jobs + WARM))
  return { folder = folder, url = url, jobs = jobs, prefix = "" }
end

--- One run of it.
-- @tparam table peer
-- @tparam string template
-- @tparam string flags
-- @treturn table rate, cpu_ms
function M.peer_measure(peer, template, flags)
  local text = lab.shell(("cd '%s' && %s node peer.mjs bundles --database '%s' --template '%s' --out '%s' --jobs %d %s")
    :format(peer.folder, peer.prefix, peer.url, template, M.fresh_folder "peer", peer.jobs, flags))
  local result = assert(json.decode(text))
  return { rate = result.jobs_per_s, cpu_ms = result.cpu_seconds * 1000 / peer.jobs }
end

--- The peer is given its best settings on this machine: each is tried once, the fastest is measured.
-- @tparam table peer
-- @tparam string template
-- @tparam string extra more flags
-- @tparam[opt={8,16}] {integer,...} concurrencies
-- @treturn string flags
function M.peer_best(peer, template, extra, concurrencies)
  local best, flags = 0, nil
  for _, queue in ipairs { "graphile", "plain" } do
    for _, concurrency in ipairs(concurrencies or { 8, 16 }) do
      for processes = 1, (concurrency + 2) * 2 <= CONNECTIONS and 2 or 1 do
        local try = ("--queue %s --concurrency %d --processes %d%s"):format(queue, concurrency, processes, extra)
        local rate = M.peer_measure(peer, template, try).rate
        if rate > best then
          best, flags = rate, try
        end
      end
    end
  end
  return flags
end

return M
