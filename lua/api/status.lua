--- Where a device's file stands: ready or why not, and its job.
-- @module api.status
local null = require("atelier.pg").null
local schema = require "api.schema"

-- The database decides, as for a download: who asks, what he may have, which job is the newest. It tells the body's
-- members as one text: a result of so many columns costs it, and us, more than the question does.
local STATUS = "select public.ate_status_members($1, $2) as told"
local READY <const> = '^"is_ready":true,"reason":null,"ate_file_id":"([%x-]+)"'
local NO_TEMPLATE <const> = '"is_ready":false,"reason":"no_template"'

local function status(call)
  local params = call.params
  local template = params.template or call.config.default_template
  local told = call:query("ate_status", STATUS, { params.device_hash, template })[1].told
  if told == null then
    call:refuse(404, "unknown_device", "unknown device", {
      hint = "Check the device hash; a device must be registered, and yours." })
  elseif told:sub(1, #NO_TEMPLATE) == NO_TEMPLATE then
    call:refuse(404, "unknown_template", ("template %s: unknown or inactive"):format(template))
  end
  local file = told:match(READY)
  local link = file and '","download_url":"' .. call.app:link(call.user.id, file) .. '",' or '","download_url":null,'
  -- Neither a device's hash nor a template's name nor a link has a character that JSON would escape.
  call:send_json(200, '{"device_hash":"' .. params.device_hash .. '","template":"' .. template .. link .. told .. "}")
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
