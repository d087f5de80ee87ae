--- Status requests at one front: 64 connections, beside pgbench with the same two statements and beside the peer.
-- Interleaved; processor time per request, because rates move with the machine.
-- @module spec.bench.status
local http = require "atelier.http"
local lab = require "spec.bench.lab"
local peer = require "spec.bench.peer"
local pg = require "atelier.pg"
local service = require "spec.bench.service"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local SECONDS = tonumber(os.getenv "SECONDS") or 4
local CUSTOMERS = 2000
local CONNECTIONS = 64
local PEER_PORT = 18787

-- What a front sends for a status: who asks, then the question; one implicit transaction, one round trip. The claims
-- are put together here by the database, which a front does by itself.
local PGBENCH = [[
\set i random(1, %d)
\startpipeline
select where set_config('role', 'authenticated', true) is null or set_config('request.jwt.claims',
  '{"sub":"' || ('a0000000-0000-4000-8000-' || lpad(to_hex(:i::bigint), 12, '0')) || '","role":"authenticated"}', true) is null
  or set_config('request.jwt.claim.sub', 'a0000000-0000-4000-8000-' || lpad(to_hex(:i::bigint), 12, '0'), true) is null;
select public.ate_status_members('BENCH-' || :i::text, 'smartgram') as told;
\endpipeline
]]

local function tell_failures(result)
  if result.errors > 0 then
    print(("  FAILED: %d of %d requests: %s"):format(result.errors, result.requests, result.kinds))
  end
end

local function pgbench(s)
  local path = lab.folder .. "/status.sql"
  local file = assert(io.open(path, "w"))
  file:write(PGBENCH:format(CUSTOMERS))
  file:close()
  local before = lab.family_cpu(s.cluster.pid)
  local text = lab.shell(("pgbench -n -M prepared -c 8 -j 1 -T %d -f '%s' '%s' 2>&1"):format(SECONDS, path, s.url))
  local rate, count = text:match "tps = ([%d.]+)", text:match "processed: (%d+)"
  assert(rate and not text:find "aborted", text)
  lab.pause(0.3) -- its backends end, and their time is counted
  return { rate = tonumber(rate), postgres_us = (lab.family_cpu(s.cluster.pid) - before) * 1e6 / tonumber(count) }
end

local function atelier(s, requests, delay)
  local front, postgres = s:cpu "front 1"
  local result = service.load { port = s.port, requests = requests, connections = CONNECTIONS, seconds = SECONDS,
    delay = delay }
  local front_after, postgres_after = s:cpu "front 1"
  result.own_us = (front_after - front) * 1e6 / result.requests
  result.postgres_us = (postgres_after - postgres) * 1e6 / result.requests
  tell_failures(result)
  return result
end

-- ==== the peer ====

local FILES = [[insert into peer.files (id, device_id, filename, file_path, file_size, checksum, encryption_key_hash, plan,
    expires_at)
  select gen_random_uuid(), d.id, 'smartgram.ate', 'x', 1000, repeat('a', 64), repeat('a', 64), d.plan,
    now() + interval '300 days' from peer.devices d]]

local function start_peer(cluster, processes)
  local folder = peer.find()
  if not folder then
    return nil
  end
  local url = peer.database(folder, cluster, CUSTOMERS)
  local conn <close> = assert(pg.connect(url))
  assert(conn:exec(FILES))
  assert(conn:exec "vacuum analyze")
  local server = peer.serve(folder, url, PEER_PORT, processes)
  local requests = peer.status_requests(folder, CUSTOMERS)
  lab.await(function()
    local answer = http.request { url = ("http://127.0.0.1:%d%s"):format(PEER_PORT, requests[1][1]), timeout = 10,
      headers = { Authorization = "Bearer " .. requests[1][2] } }
    return answer and answer.status == 200
  end, 30, "the peer answers")
  return { server = server, requests = requests, cluster = cluster }
end

local function measure_peer(p)
  local own, postgres = p.server.cpu(), lab.family_cpu(p.cluster.pid)
  local result = service.load { port = PEER_PORT, requests = p.requests, connections = CONNECTIONS, seconds = SECONDS }
  result.own_us = (p.server.cpu() - own) * 1e6 / result.requests
  result.postgres_us = (lab.family_cpu(p.cluster.pid) - postgres) * 1e6 / result.requests
  tell_failures(result)
  return result
end

-- ==== the run ====

local function collect(into, name, result)
  into[name] = into[name] or {}
  table.insert(into[name], result)
end

local function median(runs, figure)
  local values = {}
  for i, run in ipairs(runs) do
    values[i] = run[figure]
  end
  return values[1] and lab.median(values)
end

local function line(label, runs)
  local own = median(runs, "own_us")
  print(("  %-34s %7.0f /s%s   CPU/request: %sPostgres %.0f µs"):format(label, median(runs, "rate"),
    runs[1].p99 and ("  p50 %5.1f ms  p99 %5.1f ms"):format(median(runs, "p50"), median(runs, "p99")) or (" "):rep(31),
    own and ("own %.0f µs, "):format(own) or "", median(runs, "postgres_us")))
end

-- Each connection asks at chance moments, so that all together ask at 80 % of what was reached.
local function at_80_percent(s, requests, runs)
  local rate = 0.8 * median(runs, "rate")
  local delay = CONNECTIONS / rate * 1000
  local result
  for _ = 1, 3 do -- the pause plus the answer's time make the rate
    result = atelier(s, requests, delay)
    delay = math.max(0.1, delay + CONNECTIONS / rate * 1000 - CONNECTIONS / result.rate * 1000)
  end
  return result, result.rate / median(runs, "rate")
end

local function report(runs)
  print(("  medians of %d interleaved rounds of %d s; %d users in turn"):format(ROUNDS, SECONDS, CUSTOMERS))
  line("atelier, 1 front, 64 connections", runs.atelier)
  line("pgbench -M prepared -c 8", runs.pgbench)
  local rate = median(runs.atelier, "rate")
  if runs.peer then
    line("peer, 2 processes, 64 connections", runs.peer)
  else
    print "  peer: not measured, there is none; PEER names its folder"
  end
  print(("  share of pgbench                   %5.0f %%   (floor 70, goal 90)"):format(
    100 * rate / median(runs.pgbench, "rate")))
  if runs.peer then
    print(("  times the peer                     %5.1f x   (floor 3.5, goal 5)"):format(rate / median(runs.peer, "rate")))
  end
end

--- Runs it and prints the figures.
function M.run()
  print "== status requests: HS256 token, row level security, one round trip"
  local s <close> = service.start("status", { customers = CUSTOMERS })
  s:files(CUSTOMERS, 1000)
  local requests = service.status_requests(s, CUSTOMERS)
  local p = start_peer(s.cluster, 2)
  local held <close> = p and p.server
  local runs = {}
  atelier(s, requests)
  for round = 1, ROUNDS do
    io.stderr:write(("  round %d of %d\r"):format(round, ROUNDS))
    collect(runs, "atelier", atelier(s, requests))
    collect(runs, "pgbench", pgbench(s))
    if p then
      collect(runs, "peer", measure_peer(p))
    end
  end
  report(runs)
  local calm, share = at_80_percent(s, requests, runs.atelier)
  print(("  at %.0f %% of its rate: %.0f /s, p50 %.1f ms, p99 %.1f ms   (floor: p99 15 ms)"):format(100 * share, calm.rate,
    calm.p50, calm.p99))
end

return M
