--- A store that is away for a minute under load: how soon after its return the first job is done, what the outage cost.
-- @module spec.bench.recovery
local clock = require "clock"
local far_store = require "spec.bench.far_store"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"

local M = {}

local SECONDS = tonumber(os.getenv "SECONDS") or 60
local JOBS = tonumber(os.getenv "JOBS") or 5000
local DELAY = 50

local FILL = [[insert into file_generation_queue (device_id, template_id)
  select bench_id('d', i), t.id from generate_series(1, $1::int) i, ate_templates t where t.is_active]]
local DONE = "select count(*)::int as n from ate_files"
local OPEN = "select count(*)::int as n from file_generation_queue where status in ('queued', 'processing')"
local COST = [[select count(*) filter (where status = 'failed')::int as failed, sum(retry_count)::int as retries,
  max(attempt)::int as claims from file_generation_queue]]

local function count(s, sql)
  return assert(s.conn:query(sql))[1].n
end

-- Rows whose object is not there, and objects that no row names.
local function differences(s, store)
  local objects, missing, orphans = store:objects(), 0, 0
  for _, row in ipairs(assert(s.conn:query("select file_path, file_size_bytes as size from ate_files"))) do
    missing = missing + (objects[row.file_path] == row.size and 0 or 1)
    objects[row.file_path] = nil
  end
  for _ in pairs(objects) do
    orphans = orphans + 1
  end
  return missing, orphans
end

local function run(s, store)
  assert(s.conn:query(FILL, { JOBS }))
  lab.await(function()
    return count(s, DONE) >= JOBS / 10
  end, 120, "a tenth is done")
  store:go()
  lab.pause(SECONDS)
  local before = count(s, DONE)
  local began = clock.now()
  store:come()
  lab.await(function()
    return count(s, DONE) > before
  end, 120, "a job is done again")
  local first = clock.now() - began
  lab.await(function()
    return count(s, OPEN) == 0
  end, 600, "all are done")
  local all = clock.now() - began
  local cost = assert(s.conn:query(COST))[1]
  local missing, orphans = differences(s, store)
  print(("  away for %g s, with %d of %d jobs done; the first one %.2f s after the return (bar 5), all after %.1f s"):format(
    SECONDS, before, JOBS, first, all))
  print(("  retries burned: %d   failed: %d   most claims of a job: %d"):format(cost.retries, cost.failed, cost.claims))
  print(("  files: %d of %d   rows without an object: %d   objects without a row, for the keeper: %d"):format(count(s, DONE),
    JOBS, missing, orphans))
end

--- Runs it and prints the figures.
function M.run()
  print(("== recovery: a store %d ms away goes for %g s under load"):format(DELAY, SECONDS))
  local store <close> = far_store.start(DELAY)
  local s <close> = service.start("recovery", { customers = JOBS, config = { workers = 2, log_level = "error",
    storage = "supabase", supabase_url = store.url, supabase_service_role_key = far_store.KEY } })
  run(s, store)
end

return M
