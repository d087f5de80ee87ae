--- Jobs as operators see them: lists, one of them whole, to be run again or stopped.
-- @module api.ops.jobs
local json = require "atelier.json"
local page = require "api.page"
local schema = require "api.schema"

local null = json.null

local LIST = [[select at, queue_id::text, device_hash, template, state, stage, priority, reason, attempt, retry_count,
  max_retries, worker_id, lease_until, run_after, verdict, error_code, error_message, queued_at, claimed_at,
  finished_at, updated_at
  from public.ate_job_list($1, $2, $3::timestamptz, $4::uuid, $5::integer)]]

-- Those that have left the queue are in the history, which knows less.
local ONE = [[
select q.id::text as queue_id, d.device_hash, t.name as template, q.status as state, q.stage, q.priority, q.reason,
  q.attempt, q.retry_count, q.max_retries, q.worker_id, q.lease_until, q.run_after, q.verdict, q.error_code,
  q.error_message, q.created_at as queued_at, q.claimed_at, q.finished_at, q.updated_at, q.template_version, q.usage,
  false as is_history
from public.file_generation_queue q join public.devices d on d.id = q.device_id
  join public.ate_templates t on t.id = q.template_id
where q.id = $1::uuid
union all
select h.id::text, d.device_hash, t.name, h.status, null, h.priority, h.reason, h.attempt, h.retry_count, h.max_retries,
  h.worker_id, null, null, h.verdict, h.error_code, h.error_message, h.created_at, h.claimed_at, h.finished_at,
  h.finished_at, h.template_version, h.usage, true
from public.file_generation_history h join public.devices d on d.id = h.device_id
  left join public.ate_templates t on t.id = h.template_id
where h.id = $1::uuid limit 1]]

local REDRIVE = [[select public.retry_ate_generation($1::uuid)::text as queue_id]]
local CANCEL = [[select public.cancel_ate_generation($1::uuid, $2) as is_cancelled]]
local STATE = [[select status as state from public.file_generation_queue where id = $1::uuid]]

local function item(row)
  local has_error = row.error_code ~= null or row.error_message ~= null
  return {
    queue_id = row.queue_id, device_hash = row.device_hash, template = row.template, state = row.state,
    stage = row.stage, priority = row.priority, reason = row.reason, attempt = row.attempt,
    retry_count = row.retry_count, max_retries = row.max_retries, worker_id = row.worker_id,
    lease_until = row.lease_until, run_after = row.run_after, verdict = row.verdict,
    error = has_error and { code = row.error_code, message = row.error_message } or null,
    queued_at = row.queued_at, claimed_at = row.claimed_at, finished_at = row.finished_at,
    updated_at = row.updated_at,
  }
end

local function list(call)
  local params, start = call.params, page.start(call, { page.TIME, page.UUID })
  local rows = call:service("ate_ops_jobs", LIST, { params.state or null, params.device_hash or null, start[1] or null,
    start[2] or null, params.limit + 1 })
  return page.answer(call, rows, item, function(row) return { row.at, row.queue_id } end)
end

local function one(call)
  local row = call:service("ate_ops_job", ONE, { call.params.id })[1]
  if not row then
    call:refuse(404, "unknown_job", "no such job")
  end
  local job = item(row)
  job.template_version, job.usage, job.is_history = row.template_version, row.usage, row.is_history
  return 200, job
end

local function redrive(call)
  local row = call:service("ate_ops_redrive", REDRIVE, { call.params.id })[1]
  return 202, { queue_id = row.queue_id, state = "queued" }
end

local function cancel(call)
  local id = call.params.id
  if not call:service("ate_ops_cancel", CANCEL, { id, call.body.reason or null })[1].is_cancelled then
    local row = call:service("ate_ops_job_state", STATE, { id })[1]
    call:refuse(409, "bad_state", "the job is over already", { details = row and row.state })
  end
  return 200, { queue_id = id:lower(), state = "cancelled" }
end

-- ==== the routes ===============================================================================

local STATES = { "queued", "processing", "completed", "failed", "cancelled" }

local function text(description)
  return { type = "string", nullable = true, description = description }
end

local function time_or_null()
  return schema.time { nullable = true }
end

local function job(more)
  local properties = {
    queue_id = schema.uuid(), device_hash = { type = "string" }, template = text(),
    state = { type = "string", enum = STATES }, stage = text "What a processing one is doing.",
    priority = { type = "integer", min = 1, max = 10 },
    reason = { type = "string", description = "Why it is there: purchase, request, retry, template, rotation." },
    attempt = { type = "integer" }, retry_count = { type = "integer" }, max_retries = { type = "integer" },
    worker_id = text "Who ran it last.", lease_until = time_or_null(), run_after = time_or_null(),
    verdict = text "What the check of the bundle said.",
    error = { type = "object", nullable = true, properties = { code = text(), message = text() } },
    queued_at = schema.time(), claimed_at = time_or_null(), finished_at = time_or_null(), updated_at = schema.time(),
  }
  for name, field in pairs(more or {}) do
    properties[name] = field
  end
  return { type = "object", properties = properties }
end

local MOVED = { type = "object", properties = { queue_id = schema.uuid {
  description = "Another one's, where a newer is queued." }, state = { type = "string", enum = STATES } } }

local ID = { id = schema.uuid { is_in_path = true, description = "The job's id." } }
local NONE = { description = "No such job" }

return {
  { method = "GET", path = "/api/ops/jobs", operation = "listJobs", auth = "operator",
    summary = "Lists jobs, the latest first; queued ones in the order in which they run",
    params = page.params { device_hash = schema.device_hash(),
      state = { type = "string", enum = STATES, description = "Only those in this state." } },
    responses = { [200] = { description = "A page", schema = page.schema(job()) } }, handler = list },
  { method = "GET", path = "/api/ops/jobs/{id}", operation = "getJob", auth = "operator", params = ID,
    summary = "One job, also of the history",
    responses = { [200] = { description = "The job", schema = job { template_version = text(),
      usage = { type = "object", nullable = true, description = "What the check used." },
      is_history = { type = "boolean", description = "Whether it has left the queue." } } }, [404] = NONE },
    handler = one },
  { method = "POST", path = "/api/ops/jobs/{id}/redrive", operation = "redriveJob", auth = "operator", params = ID,
    summary = "Runs a failed or cancelled job again, with all its retries",
    body = { type = "object", properties = {} },
    responses = { [202] = { description = "It is queued", schema = MOVED }, [404] = NONE,
      [409] = { description = "It is running, or has completed" } }, handler = redrive },
  { method = "POST", path = "/api/ops/jobs/{id}/cancel", operation = "cancelJob", auth = "operator", params = ID,
    summary = "Stops a job for good; one that runs is not completed",
    body = { type = "object", properties = {
      reason = { type = "string", max = 200, description = "For the log and the job's page." } } },
    responses = { [200] = { description = "It is cancelled", schema = MOVED }, [404] = NONE,
      [409] = { description = "It is over already" } }, handler = cancel },
}
