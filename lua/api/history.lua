--- The caller's downloads.
-- @module api.history
local json = require "atelier.json"
local page = require "api.page"
local schema = require "api.schema"

local HISTORY = [[
select h.id::text, h.ate_file_id::text, split_part(f.file_path, '/', 2) as device_hash, h.status,
  h.bytes_downloaded as bytes, h.reached_end, h.reason, host(h.download_ip) as ip, h.user_agent, h.created_at
from public.download_history h left join public.ate_files f on f.id = h.ate_file_id
where ($1::timestamptz is null or (h.created_at, h.id) < ($1::timestamptz, $2::uuid))
  and ($3::uuid is null or h.ate_file_id = $3::uuid)
order by h.created_at desc, h.id desc limit $4::integer]]

local function history(call)
  local start = page.start(call, { page.TIME, page.UUID })
  local rows = call:query("ate_history_page", HISTORY, { start[1] or json.null, start[2] or json.null,
    call.params.ate_file_id or json.null, call.params.limit + 1 })
  return page.answer(call, rows, function(row) return row end, function(row)
    return { row.created_at, row.id }
  end)
end

local ITEM = { type = "object", properties = {
  id = schema.uuid(), ate_file_id = schema.uuid(), device_hash = { type = "string", nullable = true },
  status = { type = "string", enum = { "completed", "failed" } },
  bytes = { type = "integer", description = "Bytes that the client's side received." },
  reached_end = { type = "boolean", description = "Whether it ended with the file's last byte." },
  reason = { type = "string", nullable = true,
    description = "Why the service cut it: `object_damaged`, and the file is built anew." },
  ip = { type = "string", nullable = true }, user_agent = { type = "string", nullable = true },
  created_at = schema.time(),
} }

return {
  { method = "GET", path = "/api/ate/history", operation = "listDownloads",
    summary = "Lists your downloads, the latest first",
    auth = "user", params = page.params { ate_file_id = schema.uuid { description = "Of this file only." } },
    responses = { [200] = { description = "A page", schema = page.schema(ITEM) } }, handler = history },
}
