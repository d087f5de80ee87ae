--- GET /metrics: what all processes of this host have counted, and how the queue stands, for Prometheus.
--
-- For this host and the networks of `metrics_allow`, by the address of the connection itself: what X-Forwarded-For says
-- never opens the door. A request that a proxy passed on is refused, even from loopback: a proxy on this host would
-- make everybody local.
-- @module api.metrics
local clock = require "clock"
local log = require "log"
local metrics = require "metrics"
local addresses = require "addresses"

local FRESH = 1 -- seconds that an answer about the queue is good for
local FORWARDED = { "x-forwarded-for", "forwarded", "x-real-ip", "via" }
local LOCAL_4, LOCAL_6 = "127.0.0.0/8", "::1"

-- Each part is a walk over a partial index that holds these rows and no others.
local QUEUE = [[select 'queued' as state, count(*) as jobs,
    extract(epoch from clock_timestamp() - min(created_at))::float8 as oldest
  from public.file_generation_queue where status = 'queued'
  union all select 'processing', count(*), extract(epoch from clock_timestamp() - min(claimed_at))::float8
  from public.file_generation_queue where status = 'processing'
  union all select 'failed', count(*), extract(epoch from clock_timestamp() - min(finished_at))::float8
  from public.file_generation_queue where status = 'failed']]

local connections = metrics.gauge("atelier_database_connections", "Connections of the front to the database.")
local waiting = metrics.gauge("atelier_database_waiting", "Requests that wait for a connection.")

-- ==== who may ask ====

-- Read for the first request: one may come while the process still starts.
local function networks(app)
  app.metrics_networks = app.metrics_networks
    or assert(addresses.networks { LOCAL_4, LOCAL_6, table.unpack(app.config.metrics_allow) })
  return app.metrics_networks
end

local function check_peer(call)
  local headers = call.request.headers
  local is_forwarded = false
  for _, name in ipairs(FORWARDED) do
    is_forwarded = is_forwarded or headers[name] ~= nil
  end
  if is_forwarded or not networks(call.app):has(call.request.peer) then
    call:refuse(403, "forbidden", "this address may not read metrics", { hint = "See metrics_allow." })
  end
end

-- ==== the queue ====

local function families(rows)
  local jobs, oldest = {}, {}
  for i, row in ipairs(rows or {}) do
    jobs[i] = { row.jobs, row.state }
    oldest[i] = { row.jobs > 0 and row.oldest or 0, row.state }
  end
  return metrics.family("atelier_database_up", "Whether the database answered.", {}, { { rows and 1 or 0 } })
    .. (rows and metrics.family("atelier_queue_jobs", "Jobs in the queue.", { "state" }, jobs)
      .. metrics.family("atelier_queue_oldest_seconds", "How long the oldest one has been in its state.", { "state" },
        oldest) or "")
end

-- However the question ends, also with its client's going away, another may be asked.
local Turn = {}
Turn.__index = Turn

function Turn:__close()
  self.known.is_asking = false
end

local function ask(app, known)
  known.is_asking = true
  local turn <close> = setmetatable({ known = known }, Turn) -- luacheck: ignore 211
  local rows, message = app.db:service("metrics_queue", QUEUE, nil, true)
  known.at = clock.now()
  known.text = families(rows)
  if not rows then
    log.debug("no metrics of the queue", { reason = message })
  end
end

-- One question at a time: while the database is slow, others get the answer before.
local function queue(app)
  local known = app.metrics_queue or { text = families(nil) }
  app.metrics_queue = known
  if not known.is_asking and (not known.at or clock.now() - known.at > FRESH) then
    ask(app, known)
  end
  return known.text
end

-- ==== the route ====

local function read(call)
  check_peer(call)
  return 200, metrics.collect(queue(call.app)), { ["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8" }
end

local function tick(app)
  local stats = app.db:stats()
  connections:set(stats.connections)
  waiting:set(stats.waiting)
end

return {
  { method = "GET", path = "/metrics", operation = "metrics", summary = "Metrics in Prometheus' text format",
    description = "For this host and the addresses of `metrics_allow`.", auth = "none",
    responses = { [200] = { description = "The metrics", content = "text/plain" },
      [403] = { description = "This address may not read them" } }, handler = read },
  tick = tick,
}
