--- Where a device's file stands: ready or why not, and its job.
-- @module api.status
local json = require "atelier.json"
local schema = require "api.schema"

local null = json.null

-- The database decides, as for a download: who asks, what he may have, which job is the newest.
local STATUS = [[select template_id, is_ready, reason, ate_file_id::text, filename, file_size, checksum, download_count,
  expires_at, queue_id::text, state, stage, "position", attempt, error_code, error_message, queued_at, updated_at
  from public.ate_status($1, $2)]]

local function job_of(row)
  if row.queue_id == null then
    return null
  end
  local has_error = row.error_code ~= null and row.state ~= "completed"
  return { queue_id = row.queue_id, state = row.state, stage = row.stage, position = row.position,
    attempt = row.attempt, error = has_error and { code = row.error_code, message = row.error_message } or null,
    queued_at = row.queued_at, updated_at = row.updated_at }
end

local function status(call)
  local params = call.params
  local template = params.template or call.config.default_template
  local row = call:query("ate_status", STATUS, { params.device_hash, template })[1]
  if not row then
    call:refuse(404, "unknown_device", "unknown device", {
      hint = "Check the device hash; a device must be registered, and yours." })
  elseif row.template_id == null then
    call:refuse(404, "unknown_template", ("template %s: unknown or inactive"):format(template))
  end
  return 200, {
    device_hash = params.device_hash, template = template, is_ready = row.is_ready, reason = row.reason,
    ate_file_id = row.ate_file_id, filename = row.filename, file_size = row.file_size, checksum = row.checksum,
    download_count = row.download_count, expires_at = row.expires_at,
    download_url = row.is_ready and call.app:link(call.user.id, row.ate_file_id) or null,
    job = job_of(row),
  }
end

local JOB = { type = "object", nullable = true, description = "The newest job, if there is one.", properties = {
  queue_id = schema.uuid(),
  state = { type = "string", enum = { "queued", "processing", "completed", "failed" } },
  stage = { type = "string", nullable = true, enum = { "claimed", "rendering", "checking", "sealing", "storing" } },
  position = { type = "integer", nullable = true, min = 1, description = "The place in the line, while it is queued." },
  attempt = { type = "integer" },
  error = { type = "object", nullable = true, properties = { code = { type = "string" },
    message = { type = "string", nullable = true } } },
  queued_at = schema.time(), updated_at = schema.time(),
} }

local STATUS_SCHEMA = { type = "object", properties = {
  device_hash = schema.device_hash(), template = schema.template(),
  is_ready = { type = "boolean", description = "Whether a download would give the file now." },
  reason = { type = "string", nullable = true, description = "Why it is not ready, in a word.", example = "pending" },
  ate_file_id = schema.uuid { nullable = true }, filename = { type = "string", nullable = true },
  file_size = { type = "integer", nullable = true }, checksum = { type = "string", nullable = true,
    description = "SHA-256 in hexadecimal." },
  download_count = { type = "integer", nullable = true }, expires_at = schema.time { nullable = true },
  download_url = { type = "string", nullable = true, description = "A link that is good for a few minutes." },
  job = JOB,
} }

return {
  { method = "GET", path = "/api/ate/status", operation = "getStatus", summary = "Tells where a device's file stands",
    auth = "user", params = { device_hash = schema.device_hash { required = true }, template = schema.template() },
    responses = { [200] = { description = "The state", schema = STATUS_SCHEMA },
      [404] = { description = "No such device of yours, or no such template" } },
    is_quick = true, handler = status },
}
