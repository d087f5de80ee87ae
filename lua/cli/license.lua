local json = require "atelier.json"
local licence = require "ate.licence"
local session = require "cli.session"

local M = {
  example = "atelier license --device DEMO-PRO-001",
}

function M.options(parser)
  parser:option("--device", "The device's hash."):argname("H"):count "1"
  parser:option("--template", "The template's name.", "smartgram"):argname "T"
end

local FIND = [[select d.id::text as device_id, f.master_key_id, f.expires_at,
    exists (select from ate_templates where name = $2) as has_template
  from devices d left join (ate_files f join ate_templates t on t.id = f.template_id and t.name = $2)
    on f.device_id = d.id
  where d.device_hash = $1]]

function M.run(args)
  return session.with(function(s)
    local rows, message, code = s.database:query(FIND, { args.device, args.template })
    if not rows then
      return nil, message, code
    end
    local row = rows[1]
    if not row then
      return nil, ("license: device %s: is unknown"):format(args.device), "unknown_device"
    end
    if not row.has_template then
      return nil, ("license: template %s: is unknown"):format(args.template), "unknown_template"
    end
    -- A device without a file would get its first from the current key.
    local id = row.master_key_id ~= json.null and row.master_key_id or nil
    local master
    master, message, code = s.ring:master(id)
    if not master then
      return nil, message, code
    end
    return { device_hash = args.device, license_key = licence.key(master, row.device_id), expires_at = row.expires_at,
      has_file = id ~= nil }
  end)
end

function M.show(result)
  print(result.license_key)
end

return M
