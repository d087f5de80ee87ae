--- The templates: what is published is here, with the very bytes that were published, or workers find it in the store.
-- @module doctor.templates
local depot = require "template.depot"
local json = require "atelier.json"
local storage = require "storage"
local template = require "template"

local M = {}

-- Of a template that this host has not: whether the store has it. A store that is out of order is not asked again.
local function look_in_store(patient, row)
  if row.content_sha256 == json.null or not patient.store_works then
    return nil
  end
  local store <close>, message = storage.open_templates(patient.config)
  if not store then
    return nil, message
  end
  return depot.look(store, { name = row.name, hash = row.content_sha256 })
end

local function compare(patient, row, tell)
  local folder = row.template_path:match "([^/]+)/*$" or ""
  local loaded, message, code = template.load(patient.config.templates_dir .. "/" .. folder)
  local name = row.name .. " " .. row.version
  if not loaded then
    local count, problem
    if code == "ENOENT" then
      count, problem = look_in_store(patient, row)
    end
    if count then
      return tell("ok", name, ("not in templates_dir, but in the store, %d files"):format(count))
    end
    tell("fail", name, problem and ("%s; %s"):format(message, problem) or message,
      "Copy the template's folder to this host's templates_dir, or publish it again from a host that has it.")
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
