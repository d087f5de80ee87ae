--- Fairness: a job of priority 10 now and then, while jobs of priority 1 take 90 % of what the worker can do.
--
-- The bound is the queue's ageing (sql/10): nothing that comes more than 270 seconds after a job of priority 10 goes
-- before it. So it waits 270 seconds at most for later ones, and then as long as a job of priority 1 does.
-- @module spec.bench.fair
local clock = require "clock"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"

local M = {}

local SECONDS = tonumber(os.getenv "SECONDS") or 600
local CAPACITY_JOBS = tonumber(os.getenv "JOBS") or 3000
local LOAD <const> = 0.9
local EVERY <const> = 5    -- seconds between jobs of priority 10
local TICK <const> = 0.1   -- and between portions of the load
local AGEING <const> = 270 -- seconds: 9 steps of priority of 30 each
local CUSTOMERS <const> = 20000 -- who have the load in turn; of one customer nothing is to be under way twice
local PATIENT <const> = 500     -- customers more, for the jobs of priority 10

local QUEUE = [[select unnest(ate_enqueue(array(select bench_id('d', i) from generate_series($1::int, $2::int) i),
  array(select id from ate_templates where is_active), $3, 'request')) as id]]
local OPEN = "select count(*)::int as n from file_generation_queue where status in ('queued', 'processing')"
-- Once finished, a job may leave the table: one that is not there any more was seen before.
local FINISHED = [[select id, status, extract(epoch from finished_at - created_at)::float8 as seconds
  from file_generation_queue where id = any ($1::uuid[]) and finished_at is not null]]

local function queue(s, first, last, priority)
  return assert(s.conn:query(QUEUE, { first, last, priority }, { timeout = 60 }))
end

local function open(s)
  return assert(s.conn:query(OPEN))[1].n
end

-- Jobs a second, of many that wait from the start.
local function capacity(s)
  local began = clock.now()
  queue(s, 1, CAPACITY_JOBS, 1)
  lab.await(function()
    return open(s) == 0
  end, 600, "the jobs that tell the capacity")
  return CAPACITY_JOBS / (clock.now() - began)
end

-- Jobs that are watched until they are finished, with their waits.
local function watch()
  return { pending = {}, count = 0, waits = {}, failed = 0 }
end

local function add(watched, rows)
  for _, row in ipairs(rows) do
    watched.pending[row.id] = true
    watched.count = watched.count + 1
  end
end

local function look(s, watched)
  local ids = {}
  for id in pairs(watched.pending) do
    ids[#ids + 1] = id
  end
  for _, row in ipairs(assert(s.conn:query(FINISHED, { "{" .. table.concat(ids, ",") .. "}" }))) do
    watched.pending[row.id] = nil
    watched.failed = watched.failed + (row.status == "completed" and 0 or 1)
    table.insert(watched.waits, row.seconds)
  end
end

-- Load that goes on for `SECONDS`, and until the jobs of priority 10 are finished or their time is over.
local function offer(s, rate)
  local ten, one, began, offered, longest = watch(), watch(), clock.now(), 0, 0
  local next_ten, next_look, now = 0, 0, 0
  while now < SECONDS or next(ten.pending) and now < SECONDS + 2 * AGEING do
    -- By the clock, so that a late turn makes up for it; and never the same customer twice.
    local due = math.min(rate * now // 1 - offered, CUSTOMERS - offered % CUSTOMERS)
    if due >= 1 then
      local first = PATIENT + 1 + offered % CUSTOMERS
      local rows = queue(s, first // 1 | 0, first + due - 1 // 1 | 0, 1)
      offered = offered + due
      add(one, { rows[1] })
    end
    if now < SECONDS and now >= next_ten then
      next_ten = next_ten + EVERY
      local n = 1 + ten.count % PATIENT
      add(ten, queue(s, n, n, 10))
    end
    if now >= next_look then
      next_look = now + 1
      look(s, ten)
      look(s, one)
      longest = math.max(longest, open(s))
    end
    lab.pause(TICK)
    now = clock.now() - began
  end
  look(s, one)
  return ten, one, { rate = (offered - open(s)) / now, offered = offered / now, longest = longest }
end

local function line(label, watched)
  table.sort(watched.waits)
  print(("  %-12s %5d watched, %d not finished, %d failed   waits: p50 %.2f s  p99 %.2f s  longest %.2f s"):format(label,
    watched.count, watched.count - #watched.waits, watched.failed, lab.median(watched.waits),
    watched.waits[math.ceil(#watched.waits * 0.99)], watched.waits[#watched.waits]))
end

--- Runs it and prints the figures; raises when no job of priority 10 gets its turn.
function M.run()
  print(("== priority 10 beside a load of priority 1 of %d %% of capacity for %g s"):format(LOAD * 100, SECONDS))
  local s <close> = service.start("fair", { customers = math.max(PATIENT + CUSTOMERS, CAPACITY_JOBS) })
  capacity(s) -- the first time everything is cold
  local most = capacity(s)
  local ten, one, load = offer(s, LOAD * most)
  print(("  capacity %.0f /s; offered %.0f /s, done %.0f /s%s; longest line %d"):format(most, load.offered, load.rate,
    load.rate < 0.98 * load.offered and " (more than the capacity was by then: the line grew)" or "", load.longest))
  if #ten.waits == 0 or #one.waits == 0 then
    error(("of %d jobs of priority 10 and %d of priority 1 %d and %d were finished"):format(ten.count, one.count,
      #ten.waits, #one.waits))
  end
  line("priority 1", one)
  line("priority 10", ten)
  print(("  bound: %d s of ageing and the longest wait of a job of priority 1: %.1f s"):format(AGEING,
    AGEING + one.waits[#one.waits]))
end

return M
