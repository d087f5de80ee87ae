--- Asks for a device's file to be built.
-- @module api.generate
local schema = require "api.schema"

local REQUEST = [[select queue_id::text, created from public.request_ate_generation($1, $2, $3::integer)]]

local function generate(call)
  local body = call.body
  local template = body.template or call.config.default_template
  local row = call:query("ate_generate", REQUEST, { body.device_hash, template, body.priority })[1]
  call:note("generation requested", { device = body.device_hash, template = template, queue_id = row.queue_id,
    created = row.created })
  return row.created and 202 or 200, { queue_id = row.queue_id, status = "queued",
    status_url = ("/api/ate/status?device_hash=%s&template=%s"):format(body.device_hash, template) }
end

local ANSWER = { type = "object", properties = { queue_id = schema.uuid(), status = { type = "string",
  enum = { "queued" } }, status_url = { type = "string", description = "Where to look how it goes." } } }

return {
  { method = "POST", path = "/api/ate/generate", operation = "generate", summary = "Queues a device's file to be built",
    description = "Answers 202 with a new job, or 200 with the one that is queued already. A job that is being "
      .. "worked on does not stop a new one.",
    auth = "user", body = { type = "object", properties = {
      device_hash = schema.device_hash { required = true },
      template = schema.template { description = "The template's name; absent: the service's own." },
      priority = { type = "integer", min = 1, max = 10, default = 5, description = "1 is built first, 10 last." },
    } },
    responses = { [202] = { description = "A new job is queued", schema = ANSWER },
      [200] = { description = "It is queued already", schema = ANSWER },
      [403] = { description = "Not entitled; `details` is the reason, `hint` what to do" },
      [404] = { description = "No such device of yours, or no such template" },
      [415] = { description = "The body is not application/json" } },
    handler = generate },
}
