--- Where a device's file stands: ready or why not, and its job.
-- @module api.status
local schema = require "api.schema"

-- The database decides, as for a download: who asks, what he may have, which job is the newest. The first columns are
-- for us, the others are sent on as they come: the body's members.
local STATUS = [[select template_id is not null as is_known, is_ready, ate_file_id::text as id,
  is_ready, reason, ate_file_id, filename, file_size, checksum, download_count, expires_at,
  queue_id as "job.queue_id", state as "job.state", stage as "job.stage", "position" as "job.position",
  attempt as "job.attempt", case when state <> 'completed' then error_code end as "job.error.code",
  error_message as "job.error.message", queued_at as "job.queued_at", updated_at as "job.updated_at"
  from public.ate_status($1, $2)]]
local SENT_ON = 4

local function status(call)
  local params = call.params
  local template = params.template or call.config.default_template
  local row = call:query("ate_status", STATUS, { params.device_hash, template }, SENT_ON)[1]
  if not row then
    call:refuse(404, "unknown_device", "unknown device", {
      hint = "Check the device hash; a device must be registered, and yours." })
  elseif not row.is_known then
    call:refuse(404, "unknown_template", ("template %s: unknown or inactive"):format(template))
  end
  local link = row.is_ready and '","download_url":"' .. call.app:link(call.user.id, row.id) .. '",'
    or '","download_url":null,'
  -- Neither a device's hash nor a template's name nor a link has a character that JSON would escape.
  call:send_json(200,
    '{"device_hash":"' .. params.device_hash .. '","template":"' .. template .. link .. row.json .. "}")
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
