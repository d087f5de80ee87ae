--- Memory of a front and a worker under load for MINUTES (1): status requests, downloads and generations all along.
-- @module spec.bench.soak
local clock = require "clock"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"

local M = {}

local MINUTES = tonumber(os.getenv "MINUTES") or 1
local CUSTOMERS = 1000
local ROUND = 10 -- seconds

local FILL = [[insert into file_generation_queue (device_id, template_id)
  select bench_id('d', i), t.id from generate_series(1, $1::int) i, ate_templates t where t.is_active
  on conflict do nothing]]

-- Resident memory in MiB: now, and the most ever.
local function memory(pid)
  local file <close> = assert(io.open(("/proc/%d/status"):format(pid)))
  local text = file:read "a"
  return tonumber(text:match "VmRSS:%s*(%d+)") / 1024, tonumber(text:match "VmHWM:%s*(%d+)") / 1024
end

local function requests_of(s)
  local requests = service.status_requests(s, CUSTOMERS)
  local rows = assert(s.conn:query [[select f.id::text, substr(d.device_hash, 7)::int as n from ate_files f
    join devices d on d.id = f.device_id]])
  for i, row in ipairs(rows) do
    if i % 4 == 0 then
      requests[#requests + 1] = { "/api/ate/download/" .. row.id, s:token(row.n) }
    end
  end
  return requests
end

local NAMES = { "front 1", "worker 1", "keeper" }

--- Runs it and prints the figures.
function M.run()
  print(("== memory under load for %g minutes"):format(MINUTES))
  local s <close> = service.start("soak", { customers = CUSTOMERS, config = { log_level = "error" } })
  assert(s.conn:query(FILL, { CUSTOMERS }))
  lab.await(function()
    return s.conn:query("select count(*)::int as n from ate_files")[1].n == CUSTOMERS
  end, 120, "every customer has a file")
  local pids, first, count, failed = {}, {}, 0, 0
  for _, name in ipairs(NAMES) do
    pids[name] = assert(s:child(name))
  end
  local requests = requests_of(s)
  local deadline = clock.now() + MINUTES * 60
  repeat
    assert(s.conn:query(FILL, { CUSTOMERS }))
    local result = service.load { port = s.port, requests = requests, connections = 16, delay = 5,
      seconds = math.max(2, math.min(ROUND, MINUTES * 15)) }
    count, failed = count + result.requests, failed + result.errors
    if not next(first) then -- after a round everything is loaded, and caches are full
      for _, name in ipairs(NAMES) do
        first[name] = memory(pids[name])
      end
    end
  until clock.now() > deadline
  for _, name in ipairs(NAMES) do
    local last, most = memory(pids[name])
    assert(s:child(name) == pids[name], name .. " was started anew")
    print(("  %-10s after the first round %6.1f MiB, at the end %6.1f MiB, at most %6.1f MiB"):format(name, first[name], last,
      most))
  end
  print(("  %d requests, %d failed; %s jobs"):format(count, failed,
    s.conn:query("select sum(generation)::text as n from ate_files")[1].n))
end

return M
