--- Bundles per second and processor time per bundle, beside the Node peer and the disk's own limit, interleaved.
-- @module spec.bench.bundles
local factory = require "spec.bench.factory"
local lab = require "spec.bench.lab"
local the_peer = require "spec.bench.peer"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local JOBS = tonumber(os.getenv "JOBS") or 3000
local PEER_JOBS = tonumber(os.getenv "PEER_JOBS") or 600
local BUNDLE_BYTES = 70000

local function disk_limit(threads)
  return tonumber(lab.shell(("'%s/disk' '%s' %d 2000 %d"):format(lab.folder, factory.fresh_folder "disk", threads,
    BUNDLE_BYTES)))
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
  local state = factory.set_up(cluster)
  local template = state.folder .. "/templates/bench.at"
  local found, flags, runs, disk = the_peer.find(), {}, {}, {}
  local peer = found and factory.peer(cluster, found, PEER_JOBS)
  if peer then
    flags["peer"] = factory.peer_best(peer, template, "")
    flags["peer --cache-deflate"] = factory.peer_best(peer, template, " --cache-deflate")
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
      collect(runs, name, factory.peer_measure(peer, template, settings))
    end
    for _, kind in ipairs(OURS) do
      collect(runs, kind.name, factory.measure(state, cluster,
        { jobs = JOBS, workers = kind.workers, check = kind.check }))
    end
    disk[#disk + 1] = disk_limit(best_threads)
  end
  report(runs, disk, best_threads, flags)
  state.conn:close()
  lab.shell(("rm -rf '%s/out'"):format(lab.folder))
end

return M
