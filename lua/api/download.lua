--- A file's bytes, or why not.
--
-- Every request is judged anew, whoever asked a moment ago: by the database, as the user. Owns the answer's head, which
-- object is opened for it, and what is noted once the answer is over. Bytes go from the store's file to the socket; an
-- object whose size or hash differs from the row's is none. A row of download_history is for a response that carries
-- bytes of a file (200 or 206 to a GET): others are answers about a file.
-- @module api.download
local crypto = require "atelier.crypto"
local conditional = require "api.conditional"
local download_log = require "api.download_log"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local link = require "api.link"
local log = require "log"
local metrics = require "metrics"
local object = require "api.object"
local problem = require "api.problem"
local schema = require "api.schema"
local storage = require "storage"

local BINARY = "application/octet-stream"
local RETRY_AFTER = "2"
local PRIORITY = 3 -- somebody waits for it

-- Twice the question whose it is: of the table's policies, and of the function that judges.
local LOOK_UP = [[
select d.ate_file_id, d.device_hash, d.template, d.verdict, d.reason, d.busy, d.file_path, d.filename, d.file_size,
  d.checksum
from public.ate_files f cross join lateral public.ate_download(f.id) d where f.id = $1::uuid]]
local REQUEST = [[select queue_id from public.request_ate_generation($1, $2, $3)]]
local JOB = [[select queue_id, state from public.ate_status($1, $2)]]
local UNDER_WAY = { queued = true, processing = true }

local HINTS = {
  beyond_plan = "The file holds tools that the present plan does not have; ask for a new one.",
  template_inactive = "The template is no longer offered.",
}

-- A quick one, unlike what may follow it: it goes along with others that wait for a connection.
local function look_up(call)
  local rows, message, code, fields = call.app.db:as_user(call.user, "ate_download", LOOK_UP, { call.params.id },
    true, true)
  if not rows then
    error(problem.of_sql(message, code, fields), 0)
  end
  return rows[1]
end

-- ==== not now, or no more ======================================================================

local function refuse_gone(call, reason)
  call:refuse(410, "gone", "the file may no longer be downloaded", { details = reason, hint = HINTS[reason] })
end

-- The job that will make the file: the one that is under way, or a new one. What came in between is as good as known
-- from the start.
local function queue(call, found)
  if found.busy ~= false then -- null: the file is there for all that the database knows, and nobody asked
    local job = call:query("ate_download_job", JOB, { found.device_hash, found.template })[1]
    if found.busy == true or job and UNDER_WAY[job.state] then
      return job and job.queue_id or json.null, job and job.state or "queued"
    end
  end
  local ok, result = pcall(call.query, call, "ate_download_request", REQUEST,
    { found.device_hash, found.template, PRIORITY })
  if ok then
    return result[1].queue_id, "queued"
  elseif problem.is(result) and result.code == "not_entitled" then
    refuse_gone(call, result.details)
  elseif problem.is(result) and result.code == "unknown_template" then
    refuse_gone(call, "template_inactive")
  end
  error(result, 0)
end

local function answer_later(call, found, reason)
  local queue_id, status = json.null, "queued"
  if call.request.method ~= "HEAD" then
    queue_id, status = queue(call, found)
  end
  return 202, { queue_id = queue_id, status = status, reason = reason,
    status_url = ("/api/ate/status?device_hash=%s&template=%s"):format(found.device_hash, found.template) },
    { ["Retry-After"] = RETRY_AFTER, ["Cache-Control"] = "private, no-store" }
end

-- ==== the object ===============================================================================

-- For as long as the store itself asks, if it does.
local function refuse_unreadable(call, seconds)
  call:refuse(503, "storage_unavailable", "the file cannot be read at the moment", {
    headers = { ["Retry-After"] = ("%d"):format(math.ceil(math.max(seconds or 5, 1))) } })
end

-- The object of a file, and the row that it was opened for. A file that was just built anew has another object: the row
-- is read once more before a loss is believed.
local function open_current(call, found)
  local store = call.app.store
  local opened, fault, message, seconds = object.open(store, found.file_path, found.file_size, found.checksum)
  if not opened and fault ~= "store" then
    local again = look_up(call)
    if again and again.verdict == "ok" and again.file_path ~= found.file_path then
      found = again
      opened, fault, message, seconds = object.open(store, found.file_path, found.file_size, found.checksum)
    end
  end
  if opened then
    return opened, found
  end
  log.error("an object cannot be served", { request = call.id, ate_file_id = found.ate_file_id, key = found.file_path,
    fault = fault, reason = message })
  if fault == "store" then
    refuse_unreadable(call, seconds)
  end
  return nil, found
end

-- ==== the answer ===============================================================================

-- A name that no shell, no file system and no header takes for more than a name.
local function safe_name(name)
  name = name:gsub("[^A-Za-z0-9._-]", "_"):gsub("^[.-]+", ""):sub(-150)
  return name ~= "" and name or "download.ate"
end

local function head_of(found)
  return {
    ["Content-Type"] = BINARY, ["Accept-Ranges"] = "bytes", ["Cache-Control"] = "private, no-store",
    ETag = '"' .. found.checksum .. '"',
    ["Repr-Digest"] = "sha-256=:" .. crypto.base64_encode(crypto.unhex(found.checksum)) .. ":",
    ["Content-Disposition"] = ('attachment; filename="%s"'):format(safe_name(found.filename)),
  }
end

-- Notes a response once it is over: what really went out, which for one that was cut is less than was meant.
local function note_completion(call, found, offset, length)
  local app, user = call.app, call.user.id
  local headers = call.request.headers
  local ip = headers["x-forwarded-for"] and app:client(call.request) or call.request.peer
  call.on_complete = function(info)
    app.downloads:add { file = found.ate_file_id, user = user, ip = ip, agent = headers["user-agent"],
      status = info.finished and "completed" or "failed", bytes = info.bytes_sent, reason = call.fault,
      reached_end = info.finished and offset + length == found.file_size }
  end
end

-- The bytes are not the file's: it is built anew. An answer that has begun is cut before its last piece.
local function stop_damaged(call, found, message)
  local note = call.on_complete
  log.error("an object is damaged", { request = call.id, ate_file_id = found.ate_file_id, key = found.file_path,
    store = call.app.store.kind, reason = message })
  metrics.damaged(call.app.store.kind)
  if not call.is_answered then
    call.on_complete = nil
    return answer_later(call, found, "object_missing")
  end
  call.fault = "object_damaged"
  call.on_complete = function(info)
    local ok, why = pcall(queue, call, found)
    if not ok then
      log.warn("a damaged file is not queued", { request = call.id, ate_file_id = found.ate_file_id,
        reason = problem.is(why) and why.message or why })
    end
    note(info)
  end
  error("the object is damaged", 0)
end

local function send(call, found, opened, status, offset, length)
  local headers = head_of(found)
  if status == 206 then
    headers["Content-Range"] = ("bytes %d-%d/%d"):format(offset, offset + length - 1, found.file_size)
  end
  if call.request.method == "GET" then
    note_completion(call, found, offset, length)
  end
  local ok, message, code, seconds = opened:send(call, { status = status, headers = headers }, offset, length)
  if not ok and code == "damaged" then
    return stop_damaged(call, found, message)
  elseif not ok and code ~= "closed" then
    call.on_complete = nil
    log.error("an object cannot be sent", { request = call.id, ate_file_id = found.ate_file_id, reason = message })
    refuse_unreadable(call, seconds)
  end
end

local function serve(call, found)
  local opened <close>, current = open_current(call, found)
  if not opened then
    return answer_later(call, current, "object_missing")
  end
  found = current
  local status, offset, length = conditional.decide(call.request.method, call.request.headers,
    '"' .. found.checksum .. '"', found.file_size)
  if status == 304 then
    local headers = head_of(found)
    call:respond { status = 304, length = found.file_size, headers = { ETag = headers.ETag,
      ["Cache-Control"] = headers["Cache-Control"] } }
  elseif status == 412 then
    call:refuse(412, "precondition_failed", "the file is another one by now", {
      headers = { ETag = head_of(found).ETag } })
  elseif status == 416 then
    call:refuse(416, "range_not_satisfiable", "the file ends before that", {
      headers = { ["Content-Range"] = "bytes */" .. found.file_size, ["Accept-Ranges"] = "bytes" } })
  else
    return send(call, found, opened, status, offset, length)
  end
end

-- ==== the process ==============================================================================

-- A request may come while the process still starts.
local function start(app)
  if not app.store then
    -- A front only reads: one thread will do.
    app.store = assert(storage.open(setmetatable({ storage_threads = 1 }, { __index = app.config })))
    app.downloads = download_log.new(app.db)
  end
end

local function stop(app)
  if app.downloads then
    app.downloads:stop()
    app.store:close()
  end
end

-- ==== who asks =================================================================================

-- A link says who asks; what he may have is found out below, as for anybody. A token is believed before a link.
local function identify(call)
  if call.user then return end
  local app, text = call.app, call.params.link
  if not text then
    call:refuse(401, "no_token", "a bearer token or a link is needed", {
      headers = { ["WWW-Authenticate"] = 'Bearer realm="atelier"' } })
  end
  local user, message, code = link.check(app.links, text, call.params.id)
  if not user then
    call:refuse(code == "link_expired" and 410 or 403, code, (message:gsub("^download: ", "")),
      { hint = "Ask the status for a new link." })
  end
  call.user = { id = user, role = "authenticated",
    text = ('{"role": "authenticated", "aud": "authenticated", "sub": "%s"}'):format(user) }
  local seconds = app.limiter:take(user, httpd.now())
  if seconds then
    call:refuse(429, "too_many_requests", "too many requests", { headers = { ["Retry-After"] = tostring(seconds) } })
  end
end

local function download(call)
  start(call.app)
  identify(call)
  local found = look_up(call)
  if not found then
    call:refuse(404, "unknown_file", "no such file")
  elseif found.verdict == "gone" then
    refuse_gone(call, found.reason)
  elseif found.verdict ~= "ok" then
    return answer_later(call, found, found.reason)
  end
  return serve(call, found)
end

-- ==== the route ================================================================================

local LATER = { type = "object", properties = {
  queue_id = schema.uuid { nullable = true, description = "The job that makes the file; null for HEAD." },
  status = { type = "string", enum = { "queued", "processing", "completed", "failed" } },
  reason = { type = "string", enum = { "pending", "file_inactive", "file_expired", "object_missing" } },
  status_url = { type = "string", description = "Where to ask how far it is." },
} }

local HEADERS = { ETag = "The checksum in quotes.", ["Repr-Digest"] = "SHA-256 of the whole file (RFC 9530).",
  ["Accept-Ranges"] = "bytes", ["Content-Disposition"] = "The file's name." }

return {
  { method = "GET", path = "/api/ate/download/{id}", operation = "downloadFile", auth = "link",
    summary = "A file's bytes; one range of them, if asked for; with HEAD, what they would be",
    params = {
      id = schema.uuid { is_in_path = true, description = "The file's id." },
      link = { type = "string", max = 8192, description = "Of `download_url`, instead of a token." },
    },
    responses = {
      [200] = { description = "The whole file, also when several ranges are asked for", content = BINARY,
        headers = HEADERS },
      [206] = { description = "The range", content = BINARY, headers = HEADERS },
      [202] = { description = "Allowed, but to be built first: a GET has queued it", schema = LATER },
      [304] = { description = "The client has it" },
      [404] = { description = "No such file of yours" },
      [410] = { description = "No longer allowed: `details` has the reason; or the link has expired" },
      [412] = { description = "If-Match names another file" },
      [416] = { description = "No range asked for lies in the file" },
    },
    handler = download },
  start = start,
  stop = stop,
}
