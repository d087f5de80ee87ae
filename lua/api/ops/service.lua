--- The service as operators see it: workers with their leases, the processes of this host, templates.
-- @module api.ops.service
local json = require "atelier.json"
local page = require "api.page"
local schema = require "api.schema"

local null = json.null

local WORKERS = [[select worker_id, host, pid, alive, lock_held, started_at, last_seen, gone_at, gone_reason, jobs,
  oldest_claim, lease_until, array_to_json(queue_ids) as queue_ids
  from public.ate_worker_list() limit 1000]]

local TEMPLATES = [[
select t.name, t.version, t.description, t.runtime, t.container, t.is_active, t.content_sha256, t.updated_at,
  v.published_at, (select count(*) from public.ate_template_versions a where a.template_id = t.id) as versions
from public.ate_templates t
  left join public.ate_template_versions v on v.template_id = t.id and v.version = t.version
where $1::text is null or t.name > $1 order by t.name limit $2::integer]]

local function workers(call)
  local items = json.array {}
  for i, row in ipairs(call:service("ate_ops_workers", WORKERS)) do
    items[i] = { worker_id = row.worker_id, host = row.host, pid = row.pid, alive = row.alive,
      lock_held = row.lock_held, started_at = row.started_at, last_seen = row.last_seen, gone_at = row.gone_at,
      gone_reason = row.gone_reason, jobs = row.jobs, oldest_claim = row.oldest_claim, lease_until = row.lease_until,
      queue_ids = row.queue_ids }
  end
  return 200, { items = items }
end

local function processes_of(state)
  local list = json.array {}
  for i, one in ipairs(state.processes or {}) do
    list[i] = { name = one.name, pid = one.pid, generation = one.generation or null, restarts = one.restarts or 0,
      since = one.since or null }
  end
  return list
end

local function state(call)
  local app, now = call.app, call.app.state() or {}
  local reload, pool = now.reload, app.db:stats()
  return 200, {
    generation = now.generation or null, started_at = now.started_at or null, pid = now.pid or null,
    reload = reload and { ok = reload.ok, at = reload.at or null, message = reload.message or null } or null,
    processes = processes_of(now),
    front = { connections = pool.connections, idle = pool.idle, waiting = pool.waiting,
      streams = app.hub and app.hub.count or 0, unrecorded_downloads = app.downloads and app.downloads:count() or 0 },
  }
end

local function templates(call)
  local start = page.start(call, { "^[a-z0-9_-]+$" })
  local rows = call:service("ate_ops_templates", TEMPLATES, { start[1] or null, call.params.limit + 1 })
  return page.answer(call, rows, function(row) return row end, function(row) return { row.name } end)
end

-- ==== the routes ===============================================================================

local function text(description)
  return { type = "string", nullable = true, description = description }
end

local TIME_OR_NULL = schema.time { nullable = true }
local NUMBER = { type = "integer", nullable = true }

local WORKER = { type = "object", properties = {
  worker_id = { type = "string" }, host = text(), pid = NUMBER, alive = { type = "boolean" },
  lock_held = { type = "boolean", description = "Whether its session's lock tells if it lives; else its leases do." },
  started_at = schema.time(), last_seen = schema.time(), gone_at = TIME_OR_NULL, gone_reason = text(),
  jobs = { type = "integer", description = "How many it holds." }, oldest_claim = TIME_OR_NULL,
  lease_until = schema.time { nullable = true, description = "When the first of its leases ends." },
  queue_ids = { type = "array", items = schema.uuid() },
} }

local STATE = { type = "object", properties = {
  generation = NUMBER, started_at = text(), pid = NUMBER,
  reload = { type = "object", nullable = true, description = "The last one.", properties = {
    ok = { type = "boolean" }, at = text(), message = text "Why it changed nothing: file, line, reason." } },
  processes = { type = "array", items = { type = "object", properties = { name = { type = "string" },
    pid = { type = "integer" }, generation = NUMBER, restarts = { type = "integer" }, since = text() } } },
  front = { type = "object", description = "The process that answers.", properties = {
    connections = { type = "integer", description = "To the database." }, idle = { type = "integer" },
    waiting = { type = "integer", description = "Requests that wait for a connection." },
    streams = { type = "integer", description = "Of live events." },
    unrecorded_downloads = { type = "integer", description = "Rows that wait for the database." } } },
} }

local TEMPLATE = { type = "object", properties = {
  name = schema.template(), version = { type = "string" }, description = text(), runtime = { type = "string" },
  container = { type = "string" }, is_active = { type = "boolean" }, content_sha256 = text(),
  updated_at = schema.time(), published_at = TIME_OR_NULL,
  versions = { type = "integer", description = "How many were published." },
} }

return {
  { method = "GET", path = "/api/ops/workers", operation = "listWorkers", auth = "operator",
    summary = "Workers, those that live first, and what they hold",
    responses = { [200] = { description = "The workers", schema = { type = "object", properties = {
      items = { type = "array", items = WORKER } } } } }, handler = workers },
  { method = "GET", path = "/api/ops/state", operation = "getState", auth = "operator",
    summary = "The generation, the last reload and the processes of the host that answers",
    responses = { [200] = { description = "The state", schema = STATE } }, handler = state },
  { method = "GET", path = "/api/ops/templates", operation = "listAllTemplates", auth = "operator",
    summary = "All templates with the version that is built now, also inactive ones",
    params = page.params {},
    responses = { [200] = { description = "A page", schema = page.schema(TEMPLATE) } }, handler = templates },
}
