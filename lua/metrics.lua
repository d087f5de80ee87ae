--- What Atelier counts: the families of metrics, and the functions that the rest of the product calls to feed them.
--
-- Each process counts for itself. In the service (where ATELIER_RUN names a folder) it leaves a snapshot there now and
-- then, and whichever front is asked for /metrics merges all of them.
-- @module metrics
local format = require "metrics.format"
local host = require "atelier.host"
local registry = require "metrics.registry"
local snapshot = require "metrics.snapshot"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local time = require "posix.time"

local M = {}

local PAGE = unistd.sysconf(unistd._SC_PAGESIZE)
local TICKS = unistd.sysconf(unistd._SC_CLK_TCK)
local own = registry.new()

-- ==== any family ====

--- A new family of counters: `c:add(n, {label values})`.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} labels their names
-- @treturn table counter
function M.counter(name, help, labels)
  return own:counter(name, help, labels)
end

--- A new family of gauges: `g:set(value, {label values})`.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} labels their names
-- @treturn table gauge
function M.gauge(name, help, labels)
  return own:gauge(name, help, labels)
end

--- A new family of histograms: `h:observe(value, {label values})`.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} labels their names
-- @tparam[opt] {number,...} buckets upper bounds, rising
-- @treturn table histogram
function M.histogram(name, help, labels, buckets)
  return own:histogram(name, help, labels, buckets)
end

-- ==== the product's ====

local http_requests = M.counter("atelier_http_requests_total", "Requests answered.", { "route", "method", "status" })
local http_seconds = M.histogram("atelier_http_request_seconds", "Time from a request's head to its answer's end.",
  { "route" })
local http_bytes = M.counter("atelier_http_response_bytes_total", "Bytes of bodies that clients received.", { "route" })
local jobs = M.counter("atelier_jobs_total", "Jobs that ended in this process.", { "result", "code" })
local job_seconds = M.histogram("atelier_job_seconds", "Time that a job's stage took.", { "stage" })
local jail_runs = M.counter("atelier_jail_runs_total", "Bundles run in the jail.", { "verdict" })
local storage_seconds = M.histogram("atelier_storage_seconds", "Time that the store took.", { "operation" })
local damaged = M.counter("atelier_objects_damaged_total",
  "Downloads that met an object whose bytes were not the file's.", { "store" })
local build_info = M.gauge("atelier_build_info", "Always 1; the labels tell what runs.", { "version", "lua" })

-- Methods are the caller's to invent; routes are ours.
local METHODS = { GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", PATCH = "PATCH", DELETE = "DELETE",
  OPTIONS = "OPTIONS" }

-- No family keeps the table of labels that it is given, and each request would leave three behind.
local by_route, by_all = {}, {}

--- Counts an answered request.
-- @tparam ?string route its template as in "/api/ate/download/{id}", never the path; nil where none matched
-- @tparam string method
-- @tparam integer status
-- @tparam number seconds
-- @tparam[opt] integer bytes of the body that the client received
function M.http(route, method, status, seconds, bytes)
  by_route[1] = route or "none"
  by_all[1], by_all[2], by_all[3] = by_route[1], METHODS[method] or "other", status
  http_requests:add(1, by_all)
  http_seconds:observe(seconds, by_route)
  if bytes and bytes > 0 then
    http_bytes:add(bytes, by_route)
  end
end

--- Counts a job's end.
-- @tparam string result "completed", "failed", "lost" or "released"
-- @tparam[opt] string code of a failure
function M.job(result, code)
  jobs:add(1, { result, code or "" })
end

--- Notes how long a stage of a job took.
-- @tparam string stage "build", "store" or "total"
-- @tparam number seconds
function M.job_stage(stage, seconds)
  job_seconds:observe(seconds, { stage })
end

--- Counts a run in the jail.
-- @tparam string verdict
function M.jail(verdict)
  jail_runs:add(1, { verdict })
end

--- Notes how long the store took.
-- @tparam string operation "put", "get", "head", "delete" or "list"
-- @tparam number seconds
function M.storage(operation, seconds)
  storage_seconds:observe(seconds, { operation })
end

--- Counts a download that met a damaged object.
-- @tparam string store "supabase", "s3" or "local"
function M.damaged(store)
  damaged:add(1, { store })
end

--- Takes an event of a worker (`on_event` of workflow.worker) to all families that it concerns.
-- @tparam string event
-- @tparam table _ the job
-- @tparam ?table|string what the artifact, or a message
-- @tparam ?string code of a failure
function M.worker_event(event, _, what, code)
  if event == "completed" then
    M.job(event)
    local timing = type(what) == "table" and what.timing or {}
    if timing.build then
      M.job_stage("build", timing.build / 1000)
    end
    if timing.store then
      M.job_stage("store", timing.store / 1000)
      M.storage("put", timing.store / 1000)
    end
    if type(what) == "table" and what.verdict then
      M.jail(what.verdict)
    end
  elseif event == "failed" then
    M.job(event, code)
    local verdict = code and code:match "^jail_(%a+)$"
    if verdict then
      M.jail(verdict)
    end
  elseif event == "lost" then
    M.job(event)
  end
end

-- ==== the process ====

local resident = M.gauge("process_resident_memory_bytes", "Memory that the process holds.")
local cpu = M.counter("process_cpu_seconds_total", "Processor time that the process has used.")
local began = M.gauge("process_start_time_seconds", "When the process began, in seconds since 1970.")
local lua_memory = M.gauge("atelier_lua_memory_bytes", "Memory of the Lua values in the process.")

local started_at = time.time()

-- Field N of a line of numbers in /proc.
local function proc_number(path, pattern)
  local file = io.open(path, "rb")
  local text = file and file:read "a" or ""
  if file then
    file:close()
  end
  return text:match(pattern)
end

local function look_at_process()
  resident:set((tonumber(proc_number("/proc/self/statm", "^%d+ (%d+)")) or 0) * PAGE)
  local user, system = proc_number("/proc/self/stat", "%) " .. ("%S+ "):rep(11) .. "(%d+) (%d+)")
  cpu:reach(((tonumber(user) or 0) + (tonumber(system) or 0)) / TICKS)
  began:set(started_at)
  lua_memory:set(collectgarbage "count" * 1024 // 1 | 0)
  build_info:set(1, { host.version, host.lua })
end

--- This process's name, as its title and its log lines have it.
-- @treturn string
function M.process()
  return stdlib.getenv "ATELIER_PROCESS" or "atelier"
end

local saved_at

--- Leaves this process's snapshot in ATELIER_RUN; does nothing outside the service.
-- @tparam[opt] number every seconds: not again before these have passed; so that a loop may call it in each turn
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
function M.save(every)
  local folder = stdlib.getenv "ATELIER_RUN"
  if not folder then
    return true
  end
  local t = every and time.clock_gettime(time.CLOCK_MONOTONIC)
  local now = t and t.tv_sec + t.tv_nsec / 1e9
  if now and saved_at and now - saved_at < every then
    return true
  end
  saved_at = now
  look_at_process()
  return snapshot.save(folder, M.process(), own:text())
end

--- A family of what belongs to no process, for `collect`.
-- @tparam string name
-- @tparam string help
-- @tparam {string,...} labels their names
-- @tparam {table,...} samples {value, label values…} each
-- @treturn string
function M.family(name, help, labels, samples)
  local lines = { format.head(name, help, "gauge") }
  for _, sample in ipairs(samples) do
    lines[#lines + 1] = format.sample(name, format.labels(labels, { table.unpack(sample, 2) }), sample[1])
  end
  return table.concat(lines, "\n") .. "\n"
end

--- All processes' metrics in Prometheus' text format 0.0.4.
-- @tparam[opt] string extra families as of `family`, one after the other
-- @treturn string
function M.collect(extra)
  look_at_process()
  return snapshot.collect(stdlib.getenv "ATELIER_RUN", M.process(), own:text(), extra)
end

return M
