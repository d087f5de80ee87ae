--- The caller's files.
-- @module api.files
local json = require "atelier.json"
local page = require "api.page"
local schema = require "api.schema"

-- The vendor decides who may read the devices: the hash and the template's name are in the object's path, too.
local FILES = [[
select f.id::text, f.created_at, f.updated_at, split_part(f.file_path, '/', 2) as device_hash,
  substring(f.file_path from '([^/]*)_[^_/]*$') as template, f.template_version as version, f.generation, f.container,
  f.filename, f.file_size_bytes as file_size, f.checksum, f.download_count, f.last_downloaded_at, f.expires_at,
  f.tools, p.name as plan, coalesce(i.is_ready, false) as is_ready
from public.ate_files f
  left join public.plans p on p.id = f.plan_id
  left join lateral public.get_download_info(split_part(f.file_path, '/', 2)) i on i.ate_file_id = f.id
where ($1::timestamptz is null or (f.created_at, f.id) < ($1::timestamptz, $2::uuid))
  and ($3::text is null or split_part(f.file_path, '/', 2) = $3::text)
order by f.created_at desc, f.id desc limit $4::integer]]

local FIELDS = { "device_hash", "template", "version", "generation", "container", "filename", "file_size", "checksum",
  "download_count", "last_downloaded_at", "expires_at", "tools", "plan", "is_ready", "created_at", "updated_at" }

local function files(call)
  local start = page.start(call, { page.TIME, page.UUID })
  local rows = call:query("ate_files_page", FILES, { start[1] or json.null, start[2] or json.null,
    call.params.device_hash or json.null, call.params.limit + 1 })
  local function item(row)
    local it = { ate_file_id = row.id,
      download_url = row.is_ready and call.app:link(call.user.id, row.id) or json.null }
    for _, name in ipairs(FIELDS) do
      it[name] = row[name]
    end
    return it
  end
  return page.answer(call, rows, item, function(row)
    return { row.created_at, row.id }
  end)
end

local ITEM = { type = "object", properties = {
  ate_file_id = schema.uuid(), device_hash = { type = "string" }, template = { type = "string", nullable = true },
  version = { type = "string", nullable = true }, generation = { type = "integer" },
  container = { type = "string", enum = { "ate1", "winzip-aes256" } }, filename = { type = "string" },
  file_size = { type = "integer" }, checksum = { type = "string" }, download_count = { type = "integer" },
  last_downloaded_at = schema.time { nullable = true }, expires_at = schema.time { nullable = true },
  tools = { type = "array", items = { type = "string" } }, plan = { type = "string", nullable = true },
  is_ready = { type = "boolean" }, download_url = { type = "string", nullable = true },
  created_at = schema.time(), updated_at = schema.time(),
} }

return {
  { method = "GET", path = "/api/ate/files", operation = "listFiles", summary = "Lists your files, the newest first",
    auth = "user", params = page.params { device_hash = schema.device_hash() },
    responses = { [200] = { description = "A page", schema = page.schema(ITEM) } }, handler = files },
}
