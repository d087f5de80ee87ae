--- kill -9 of a worker under load: how long until each of its jobs is in other hands, and that none is lost.
-- @module spec.bench.kill
local clock = require "clock"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"
local signal = require "posix.signal"

local M = {}

local KILLS = tonumber(os.getenv "KILLS") or 50
local JOBS = 5000

local FILL = [[insert into file_generation_queue (device_id, template_id)
  select bench_id('d', i), t.id from generate_series(1, $1::int) i, ate_templates t where t.is_active
  on conflict do nothing]]
-- Each process start has a name of its own, so what a dead worker held is what still bears the name.
local HELD = [[select worker_id, count(*)::int as jobs from file_generation_queue
  where status = 'processing' and worker_id like '%-' || $1::text || '-%' group by worker_id]]
local LEFT = "select count(*)::int as n from file_generation_queue where status = 'processing' and worker_id = $1"
local OPEN = "select count(*)::int as n from file_generation_queue where status in ('queued', 'processing')"
local FAILED = "select count(*)::int as n from file_generation_queue where status = 'failed'"

local function ask(s, sql, ...)
  return assert(s.conn:query(sql, { ... }))
end

-- Kills a worker that holds jobs; gives milliseconds until it holds none, and how many it held.
local function kill(s, name)
  local pid, held
  lab.await(function()
    pid = s:child(name)
    held = pid and ask(s, HELD, tostring(pid))[1]
    return held
  end, 60, name .. " holds jobs")
  signal.kill(pid, signal.SIGKILL)
  local began = clock.now()
  held = ask(s, HELD, tostring(pid))[1] or held
  lab.await(function()
    return ask(s, LEFT, held.worker_id)[1].n == 0
  end, 90, "its jobs run again")
  return (clock.now() - began) * 1000, held.jobs
end

local function refill(s)
  if ask(s, OPEN)[1].n < JOBS / 2 then
    ask(s, FILL, JOBS)
  end
end

--- Runs it and prints the figures.
function M.run()
  print "== kill -9 of a worker: its jobs in other hands"
  local s <close> = service.start("kill", { customers = JOBS, config = { workers = 2, log_level = "error" } })
  local values, jobs = {}, 0
  for i = 1, KILLS do
    refill(s)
    local ms, held = kill(s, "worker " .. 1 + i % 2)
    values[i], jobs = ms, jobs + held
  end
  lab.await(function()
    return ask(s, OPEN)[1].n == 0
  end, 300, "everything is done")
  table.sort(values)
  print(("  %d kills, %d jobs held: median %.0f ms, p99 %.0f ms, worst %.0f ms   (floor 2,000, goal 500)"):format(KILLS,
    jobs, lab.median(values), values[math.ceil(KILLS * 0.99)], values[KILLS]))
  print(("  jobs that failed: %d; left over: 0"):format(ask(s, FAILED)[1].n))
end

return M
