--- The queue as operators see it: how much of it there is, and how fast it has gone lately.
-- @module api.ops.queue
local json = require "atelier.json"
local schema = require "api.schema"

local null = json.null

local SUMMARY = [[select state, priority, jobs, ready, oldest_seconds from public.ate_queue_summary()]]
local SERIES = [[select minute, completed, failed, wait_p50, wait_p95, run_p50, run_p95, total_p50, total_p95
  from public.ate_series($1::integer)]]

local STATES = { "queued", "processing", "completed", "failed", "cancelled" }

local function add(sum, row)
  sum.jobs, sum.ready = sum.jobs + row.jobs, sum.ready + row.ready
  if row.oldest_seconds ~= null and (sum.oldest_seconds == null or row.oldest_seconds > sum.oldest_seconds) then
    sum.oldest_seconds = row.oldest_seconds
  end
end

local function queue(call)
  local states, priorities = {}, json.array {}
  for _, state in ipairs(STATES) do
    states[state] = { jobs = 0, ready = 0, oldest_seconds = null }
  end
  for _, row in ipairs(call:service("ate_ops_queue", SUMMARY)) do
    if row.jobs == null then row.jobs = 0 end
    add(states[row.state], row)
    if row.state == "queued" then
      priorities[#priorities + 1] = { priority = row.priority, jobs = row.jobs, ready = row.ready,
        oldest_seconds = row.oldest_seconds }
    end
  end
  table.sort(priorities, function(a, b) return a.priority < b.priority end)
  return 200, { states = states, priorities = priorities }
end

local function spread(row, name)
  return { p50 = row[name .. "_p50"], p95 = row[name .. "_p95"] }
end

local function series(call)
  local items = json.array {}
  for i, row in ipairs(call:service("ate_ops_series", SERIES, { call.params.minutes })) do
    items[i] = { minute = row.minute, completed = row.completed, failed = row.failed, wait_ms = spread(row, "wait"),
      run_ms = spread(row, "run"), total_ms = spread(row, "total") }
  end
  return 200, { items = items }
end

local function count(description)
  return { type = "integer", min = 0, description = description }
end

local AGE = { type = "number", nullable = true, description = "Seconds since the oldest of them came to this state." }

local function state(description)
  return { type = "object", description = description, properties = { jobs = count(),
    ready = count "Of them, those that may run now: the others wait after a failure.", oldest_seconds = AGE } }
end

local SPREAD = { type = "object", description = "Milliseconds of the completed ones; null when there are none.",
  properties = { p50 = { type = "number", nullable = true }, p95 = { type = "number", nullable = true } } }

return {
  { method = "GET", path = "/api/ops/queue", operation = "summarizeQueue", auth = "operator",
    summary = "Jobs by state and priority, and how long the oldest has waited",
    responses = { [200] = { description = "The queue", schema = { type = "object", properties = {
      states = { type = "object", properties = { queued = state(), processing = state(),
        completed = state "Of the last hour.", failed = state "Until they are moved to the history.",
        cancelled = state() } },
      priorities = { type = "array", description = "Of the queued ones.", items = { type = "object", properties = {
        priority = { type = "integer", min = 1, max = 10 }, jobs = count(), ready = count(),
        oldest_seconds = AGE } } },
    } } } }, handler = queue },
  { method = "GET", path = "/api/ops/series", operation = "measureQueue", auth = "operator",
    summary = "Throughput and latency by minute, the oldest first; the last one is not over",
    params = { minutes = { type = "integer", min = 1, max = 1440, default = 60, description = "How far back." } },
    responses = { [200] = { description = "The minutes", schema = { type = "object", properties = {
      items = { type = "array", items = { type = "object", properties = {
        minute = schema.time(), completed = count(), failed = count(), wait_ms = SPREAD, run_ms = SPREAD,
        total_ms = SPREAD } } },
    } } } }, handler = series },
}
