--- The templates: what is published is here, with the very bytes that were published.
-- @module doctor.templates
local json = require "atelier.json"
local template = require "template"

local M = {}

local function compare(patient, row, tell)
  local folder = row.template_path:match "([^/]+)/*$" or ""
  local loaded, message = template.load(patient.config.templates_dir .. "/" .. folder)
  local name = row.name .. " " .. row.version
  if not loaded then
    tell("fail", name, message, "Copy the template's folder to this host's templates_dir.")
  elseif loaded.version ~= row.version then
    tell("fail", name, "this host has version " .. loaded.version, "Publish that, or copy the published one here.")
  elseif row.content_sha256 ~= json.null and loaded.hash ~= row.content_sha256 then
    tell("fail", name, "its files are not the published ones", "Give them a new version and publish that.")
  else
    tell("ok", name, "as published")
  end
end

--- Examines; see `doctor`.
-- @tparam table patient
-- @tparam function tell
function M.run(patient, tell)
  if not patient.has_schema then
    return
  end
  local rows = patient.conn:query [[select name, version, template_path, content_sha256 from ate_templates
    where is_active order by name]]
  for _, row in ipairs(rows or {}) do
    compare(patient, row, tell)
  end
  if not rows or not rows[1] then
    tell("warn", "templates", "none is published", "Run: atelier template publish smartgram")
  end
end

return M
