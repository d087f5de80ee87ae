--- Bundles per second to a store that takes 50 ms for every answer, beside the local disk and the peer with that store.
-- @module spec.bench.remote
local factory = require "spec.bench.factory"
local far_store = require "spec.bench.far_store"
local lab = require "spec.bench.lab"
local the_peer = require "spec.bench.peer"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local JOBS = tonumber(os.getenv "JOBS") or 3000
local PEER_JOBS = tonumber(os.getenv "PEER_JOBS") or 600
local DELAY = tonumber(os.getenv "DELAY") or 50

local PEER = "peer, far store"
local OURS = {
  { name = "1 worker, local disk", workers = 1 },
  { name = "1 worker, far store", workers = 1, far = true },
  { name = "2 workers, local disk", workers = 2 },
  { name = "2 workers, far store", workers = 2, far = true },
  { name = "1 worker, every bundle run, local disk", workers = 1, check = true },
  { name = "1 worker, every bundle run, far store", workers = 1, check = true, far = true },
}

local function collect(into, name, result, server_ms)
  into[name] = into[name] or { rate = {}, cpu = {}, server = {} }
  table.insert(into[name].rate, result.rate)
  table.insert(into[name].cpu, result.cpu_ms)
  table.insert(into[name].server, server_ms)
end

local function show(name, runs)
  print(("  %-40s %8.0f /s   CPU %5.2f ms each, and the store's own %.2f"):format(name, lab.median(runs.rate),
    lab.median(runs.cpu), lab.median(runs.server)))
end

-- Everything that was recorded is in the store, with its size.
local function missing(shop, store)
  local objects, count = store:objects(), 0
  for _, row in ipairs(assert(shop.conn:query("select file_path, file_size_bytes as size from ate_files"))) do
    if objects[row.file_path] ~= row.size then
      count = count + 1
    end
  end
  return count
end

local function run_ours(shop, cluster, store, kind)
  local before = store:cpu()
  if kind.far then
    assert(shop.conn:exec "delete from ate_files")
  end
  local result = factory.measure(shop, cluster, { jobs = JOBS, workers = kind.workers, check = kind.check,
    env = kind.far and store.env or { ATELIER_STORE = "local" } })
  if kind.far then
    local lost = missing(shop, store)
    assert(lost == 0, lost .. " files are recorded and not in the store")
  end
  return result, (store:cpu() - before) * 1000 / JOBS
end

local function report(runs, peers)
  print(("\nmedians of %d interleaved rounds; %d bundles a run (peer: %d)"):format(ROUNDS, JOBS, PEER_JOBS))
  for _, kind in ipairs(OURS) do
    show(kind.name, runs[kind.name])
  end
  for name, flags in pairs(peers) do
    show(name, runs[name])
    print(("    %s"):format(flags))
  end
  print()
  for i = 2, #OURS, 2 do
    local far, near = lab.median(runs[OURS[i].name].rate), lab.median(runs[OURS[i - 1].name].rate)
    print(("  %-72s %5.0f %%  (bar 80)"):format(OURS[i].name .. " / local disk", 100 * far / near))
    for name in pairs(peers) do
      print(("  %-72s %5.1f x%s"):format(OURS[i].name .. " / " .. name, far / lab.median(runs[name].rate),
        name == PEER and "  (bar 5)" or ""))
    end
  end
end

--- Runs it and prints the figures.
function M.run()
  print(("== bundles per second to a store that is %g ms away, over its REST API; 250 KB of Lua in 8 files"):format(DELAY))
  local cluster = lab.cluster()
  local shop = factory.set_up(cluster)
  local store <close> = far_store.start(DELAY)
  local template = shop.folder .. "/templates/bench.at"
  local found, peers, runs = the_peer.find(), {}, {}
  local peer = found and factory.peer(cluster, found, PEER_JOBS)
  if peer then
    peer.prefix = ("env NODE_OPTIONS='--import file://%s/spec/bench/peer_store.mjs' STORE_URL='%s' STORE_KEY='%s'")
      :format(lab.root, store.url, far_store.KEY)
    for name, extra in pairs { [PEER] = "", ["peer --cache-deflate, far store"] = " --cache-deflate" } do
      peers[name] = factory.peer_best(peer, template, extra, { 16, 40, 80 })
    end
  else
    print "  no peer: set PEER to the folder of peer.mjs for the comparison"
  end
  for round = 1, ROUNDS do
    io.stderr:write(("  round %d of %d\r"):format(round, ROUNDS))
    for _, kind in ipairs(OURS) do
      collect(runs, kind.name, run_ours(shop, cluster, store, kind))
    end
    for name, flags in pairs(peers) do
      local before = store:cpu()
      local result = factory.peer_measure(peer, template, flags)
      collect(runs, name, result, (store:cpu() - before) * 1000 / PEER_JOBS)
    end
  end
  report(runs, peers)
  shop.conn:close()
  lab.shell(("rm -rf '%s/out'"):format(lab.folder))
end

return M
