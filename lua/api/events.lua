--- Live states of a user's jobs, as server-sent events.
--
-- Owns the stream: what is there at its beginning, what changed since, signs of life, and its end when the token's time
-- is over. Each stream asks the database as its user, when the hub wakes it; between two questions there is a little
-- time, in which changes gather. A reader who takes nothing is the server's business, which cuts it.
-- @module api.events
local httpd = require "atelier.httpd"
local hub = require "api.hub"
local json = require "atelier.json"
local log = require "log"

local null = json.null

local JOBS = [[select device_id::text, queue_id::text, device_hash, template, ate_file_id::text, state, stage,
  "position", attempt, error_code, error_message, queued_at, updated_at from public.ate_present_jobs()]]

local HEARTBEAT = 15
local LOOK = 2 -- where nobody tells, and for the place in the line, which others change
local LOOK_ANYWAY = 60
local LOOKS = 100 -- a second, of all streams of a process, for places in the line: what has changed is to be told first
local REST = 0.1 -- between two questions

-- ==== what is sent =============================================================================

local function event_of(row)
  local has_error = row.error_code ~= null and row.state ~= "completed"
  return assert(json.encode { queue_id = row.queue_id, state = row.state, stage = row.stage, position = row.position,
    attempt = row.attempt, error = has_error and { code = row.error_code, message = row.error_message } or null,
    queued_at = row.queued_at, updated_at = row.updated_at, device_hash = row.device_hash, template = row.template,
    ate_file_id = row.ate_file_id })
end

-- The events for what is not as it was; `sent` has what the client knows, by device and template.
local function changes(rows, sent)
  local events, present, is_waiting = {}, {}, false
  for _, row in ipairs(rows) do
    local key, data = row.device_id .. row.template, event_of(row)
    if sent[key] ~= data then
      events[#events + 1] = ("event: job\nid: %s\ndata: %s\n\n"):format(row.updated_at, data)
    end
    present[key] = data
    is_waiting = is_waiting or row.state == "queued"
  end
  return table.concat(events), present, is_waiting
end

-- ==== the stream ===============================================================================

-- Whether the token is still good: its time is not over, and its key has not been withdrawn.
local function is_welcome(call)
  return (pcall(call.app.auth.require, call.app.auth, call.request.headers.authorization, "user"))
end

-- After how many seconds a stream looks again though nobody woke it.
local function next_look(streams, is_waiting)
  if not streams:is_live() then
    return LOOK
  end
  return is_waiting and math.max(LOOK, streams:size() / LOOKS) or LOOK_ANYWAY
end

-- Asks and tells. → whether the stream goes on, and after how many seconds it is to look again
local function tell(call, state)
  local rows, message, code = call.app.db:as_user(call.user, "ate_present_jobs", JOBS, {}, true)
  state.looked_at = httpd.now()
  if not rows then
    log.debug("a live view sees nothing", { request = call.id, code = code, reason = message })
    return true, LOOK
  end
  local text, is_waiting
  text, state.sent, is_waiting = changes(rows, state.sent)
  if text ~= "" then
    state.spoke_at = state.looked_at
    if not call.request:write(text) then
      return false
    end
  end
  return true, next_look(call.app.hub, is_waiting)
end

-- Until when nothing needs to be done, unless the hub knows better.
local function seconds_left(call, state, look)
  local now = httpd.now()
  return math.max(0, math.min(state.spoke_at + HEARTBEAT - now, state.looked_at + look - now,
    call.user.expires - os.time()))
end

local function follow(call, view, state)
  local goes_on, look = true, LOOK
  while goes_on do
    local is_told = view:wait(seconds_left(call, state, look))
    local now = httpd.now()
    if not is_welcome(call) then
      call.request:write ": the token is no longer good\n\n"
      return
    elseif is_told or now >= state.looked_at + look then
      if now < state.looked_at + REST then
        httpd.sleep(state.looked_at + REST - now)
      end
      goes_on, look = tell(call, state)
    elseif now >= state.spoke_at + HEARTBEAT then
      state.spoke_at = now
      goes_on = call.request:write ": alive\n\n"
    end
  end
end

local REFUSALS = {
  user = { 429, "too_many_streams", "this user has too many streams open" },
  all = { 503, "busy", "too many streams are open" },
}

-- Made for the first request: one may come while the process still starts. Streams leave connections for others.
local function hub_of(app)
  app.hub = app.hub or hub.new(app.db, math.max(1, app.config.front_connections // 2))
  return app.hub
end

local function events(call)
  local view <close>, fault = hub_of(call.app):attach(call.user.id)
  if not view then
    local status, code, message = table.unpack(REFUSALS[fault])
    call:refuse(status, code, message, { headers = { ["Retry-After"] = "5" } })
  end
  local rows = call:query("ate_present_jobs", JOBS, {})
  local now = httpd.now()
  local text, sent, is_waiting = changes(rows, {})
  local ok = call:respond { stream = true, headers = { ["Content-Type"] = "text/event-stream",
    ["Cache-Control"] = "no-store", ["X-Accel-Buffering"] = "no" } }
  if ok and call.request.method ~= "HEAD" and call.request:write("retry: 2000\n\n" .. text) then
    follow(call, view, { sent = sent, looked_at = now, spoke_at = now, is_waiting = is_waiting })
  end
end

-- ==== the route ================================================================================

return {
  { method = "GET", path = "/api/ate/events", operation = "followJobs", auth = "user",
    summary = "The present state of the user's jobs, then every change, as server-sent events",
    description = "Event `job`; its data is `job` of the status, and device_hash, template, ate_file_id. A connection "
      .. "that is taken up again gets the present state too: nothing is missed, whatever Last-Event-ID says. A line "
      .. "that begins with a colon is a sign of life. The stream ends when the token's time is over.",
    params = {},
    responses = {
      [200] = { description = "The stream", content = "text/event-stream" },
      [429] = { description = "Too many requests, or too many streams of this user" },
    },
    handler = events },
  stop = function(app)
    if app.hub then app.hub:stop() end
  end,
}
