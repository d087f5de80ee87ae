--- Whether this process lives, and whether it can serve.
-- @module api.health
local json = require "atelier.json"

local function healthz()
  return 200, { status = "ok" }
end

local function readyz(call)
  local state = call.app.state() or {}
  local reload = state.reload or {}
  local is_ready = call.app:ready()
  return is_ready and 200 or 503, {
    ready = is_ready, generation = state.generation or json.null,
    reload_error = reload.ok == false and reload.message or json.null,
  }, not is_ready and { ["Retry-After"] = "1" } or nil
end

local READY = { type = "object", properties = {
  ready = { type = "boolean" },
  generation = { type = "integer", nullable = true, description = "How often scripts have been reloaded, from 1." },
  reload_error = { type = "string", nullable = true, description = "Why the last reload changed nothing." },
} }

return {
  { method = "GET", path = "/healthz", operation = "health", summary = "Tells that the process lives", auth = "none",
    responses = { [200] = { description = "It does", schema = { type = "object", properties = {
      status = { type = "string", enum = { "ok" } } } } } },
    handler = healthz },
  { method = "GET", path = "/readyz", operation = "ready", summary = "Tells whether requests can be served",
    auth = "none",
    responses = { [200] = { description = "They can", schema = READY },
      [503] = { description = "Not now", schema = READY } },
    handler = readyz },
}
