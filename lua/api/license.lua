--- The licence key that opens a device's file. It is computed, not kept: the answer must not be either.
-- @module api.license
local json = require "atelier.json"
local licence = require "ate.licence"
local schema = require "api.schema"

local LICENCE = [[
select s.device_id::text, s.template_id, s.ate_file_id, s.reason, i.plan_name, i.license_expires_at, i.is_valid,
  f.master_key_id
from public.ate_status($1, $2) s
  cross join lateral public.get_device_plan_info($1) i
  left join public.ate_files f on f.id = s.ate_file_id]]

-- Who has a file may open it, also when it has expired. Who has none gets the key of the one that is to come.
local function license(call)
  local params = call.params
  local row = call:query("ate_licence", LICENCE, { params.device_hash,
    params.template or call.config.default_template })[1]
  if not row then
    call:refuse(404, "unknown_device", "unknown device", {
      hint = "Check the device hash; a device must be registered, and yours." })
  elseif row.template_id == json.null then
    call:refuse(404, "unknown_template", "unknown or inactive template")
  elseif row.ate_file_id == json.null and not row.is_valid then
    call:refuse(403, "not_entitled", "the device is not entitled and has no file", { details = row.reason })
  end
  local master = call.app:master(row.master_key_id ~= json.null and row.master_key_id or nil)
  if not master then
    call:refuse(503, "key_unavailable", "the key of this file is not on this host")
  end
  return 200, { device_hash = params.device_hash, license_key = assert(licence.key(master, row.device_id)),
    plan = row.plan_name, expires_at = row.license_expires_at }, { ["Cache-Control"] = "no-store" }
end

return {
  { method = "GET", path = "/api/ate/license", operation = "getLicense",
    summary = "Gives the licence key that opens a device's file", auth = "user",
    params = { device_hash = schema.device_hash { required = true }, template = schema.template() },
    responses = { [200] = { description = "The key; never cached", schema = { type = "object", properties = {
        device_hash = schema.device_hash(), plan = { type = "string" }, expires_at = schema.time { nullable = true },
        license_key = { type = "string", example = "00000-00000-00000-00000-00000" } } } },
      [403] = { description = "Not entitled, and there is no file; `details` is the reason" },
      [404] = { description = "No such device of yours, or no such template" } },
    handler = license },
}
