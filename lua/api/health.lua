--- Whether this process lives, and whether it can serve.
-- @module api.health
local discreet = require "discreet"
local host = require "atelier.host"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"

local PATIENCE = 2 -- seconds after which a database that does not answer is away
local FRESH = 1    -- seconds after its last answer, whoever it was for, it is asked
local TURN = 0.02

local function healthz()
  return 200, { status = "ok" }
end

-- Asks the database, once for all who want to know. A connection that is there says nothing of a database that hangs.
local function ask(app, probe)
  probe.is_asking, probe.is_away = true, true
  local task = httpd.spawn(function()
    local ok, rows, message, code = pcall(app.db.service, app.db, "ate_ready", "select 1", nil, true)
    probe.is_away = not ok or not rows and code ~= "busy"
    probe.is_asking = nil
    if not ok then
      log.error("the database could not be asked", { reason = rows or message })
    end
  end)
  if not task then -- no memory: who asks next tries again
    probe.is_asking = nil
  end
end

local function answers(app)
  local probe = app.probe or {}
  app.probe = probe
  if app.db:silence() > FRESH and not probe.is_asking then
    ask(app, probe)
  end
  -- Where all connections are busy our own question waits in line; what others were answered meanwhile counts as well.
  local limit = httpd.now() + PATIENCE
  while app.db:silence() > PATIENCE and probe.is_asking and httpd.now() < limit do
    httpd.sleep(TURN)
  end
  return app.db:silence() <= PATIENCE or not probe.is_asking and not probe.is_away
end

-- A front that has just been started takes requests while it still connects: who asks now waits for that, too.
local function is_ready(app)
  local limit = httpd.now() + PATIENCE
  while not app.has_started and httpd.now() < limit do
    httpd.sleep(TURN)
  end
  return app:ready() and answers(app)
end

-- Which plans.lua is meant must be told; where on this host its folder is, not.
local OURS = host.root:gsub("%p", "%%%0") .. "/"

local function reason_of(reload)
  return discreet.paths((reload.message:gsub(OURS, "")))
end

local function readyz(call)
  local state = call.app.state() or {}
  local reload = state.reload or {}
  local ready = is_ready(call.app)
  return ready and 200 or 503, {
    ready = ready, generation = state.generation or json.null,
    reload_error = reload.ok == false and reason_of(reload) or json.null,
  }, not ready and { ["Retry-After"] = "1" } or nil
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
