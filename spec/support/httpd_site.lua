--- A site for the specs of atelier.httpd, in child processes: what its paths do, and clients that are closed after each spec.
--
-- Most specs say nothing of limits: `server` has none that a slow machine could meet. `impatient` is for those of what the
-- limits do.
--
-- @module spec.support.httpd_site
local child = require "spec.support.httpd_child"
local httpd = require "atelier.httpd"
local tcp = require "spec.support.tcp"

local M = {}

local PATIENT = {
  header_seconds = 600, body_seconds = 600, handler_seconds = 600, response_seconds = 600, stall_seconds = 600,
  idle_seconds = 600, half_close_seconds = 600, slice_ms = 1000, connections = 1200, requests = 100, body_bytes = 5000,
}
local IMPATIENT = {
  header_seconds = 5, body_seconds = 5, handler_seconds = 5, response_seconds = 5, stall_seconds = 5, idle_seconds = 8,
  half_close_seconds = 600,
}

local function sorted(list)
  table.sort(list)
  return table.concat(list, "|")
end

-- Tells the log when its scope is left, however.
local function noted(log)
  return setmetatable({}, { __close = function() log:write("held one closed\n") end })
end

local PAGES = {}

PAGES["/describe"] = function(request)
  local query, repeated = {}, {}
  for name, value in pairs(request.query) do query[#query + 1] = name .. "=" .. value end
  for name in pairs(request.repeated or {}) do repeated[#repeated + 1] = name end
  request:respond { headers = { ["X-Query"] = sorted(query), ["X-Repeated"] = sorted(repeated),
    ["X-A"] = request.headers["x-a"] or "-", ["X-Peer"] = request.peer, ["X-Version"] = request.version,
    ["X-Method"] = request.method } }
end

PAGES["/echo"] = function(request)
  request:respond { body = request.body or "", headers = { ["Content-Type"] = "text/plain" } }
end

PAGES["/sleep"] = function(request)
  httpd.sleep(tonumber(request.query.s))
  request:respond { body = "slept" }
end

PAGES["/file"] = function(request)
  local q = request.query
  local ok, _, code = request:respond { status = q.offset and 206 or 200,
    file = { path = q.path, offset = math.tointeger(q.offset), length = math.tointeger(q.length) } }
  if not ok then request:respond { status = 404, body = code } end
end

PAGES["/stream"] = function(request, log)
  request:respond { stream = true, headers = { ["Content-Type"] = "text/event-stream" } }
  for i = 1, tonumber(request.query.n) do
    local ok, _, code = request:write(("%d\n"):format(i):rep(tonumber(request.query.times) or 1))
    if not ok then
      log:write("stream ended: ", code, "\n")
      return
    end
  end
  if request.query.fail then error("in the middle") end
  if request.query.hold then
    local held <close> = noted(log)
    httpd.park()
  end
end

PAGES["/hold"] = function(_, log)
  log:write("held one begins\n")
  local held <close> = noted(log)
  httpd.sleep(1000)
end

PAGES["/error"] = function() error("secret reason") end
PAGES["/object"] = function() error({ code = "x" }) end
PAGES["/silent"] = function() end
PAGES["/yield"] = function() coroutine.yield("what for?") end
PAGES["/loop"] = function() while true do end end

PAGES["/collect"] = function(request)
  collectgarbage()
  collectgarbage()
  request:respond { body = "" }
end

PAGES["/completed"] = function(request, _, server)
  request:respond { body = tostring(server:stats().completed) }
end

local function handler(request, server, log)
  local page = PAGES[request.path]
  if page then return page(request, log, server) end
  request:respond { body = "path " .. request.path }
end

local function accept(request)
  if request.path == "/large" then return 100000 end
  if request.path == "/none" then return 0 end
  if request.path == "/no" then return { status = 401, headers = { ["X-Why"] = "no" }, body = "not you" } end
  if request.path == "/accept-error" then error("in accept") end
  if request.path == "/accept-odd" then return "yes" end
  if request.path == "/accept-waits" then httpd.sleep(1) end
  if request.path == "/accept-loops" then while true do pcall(error) end end
end

--- Another server of the same site.
-- @tparam table limits
function M.start(limits)
  return child.start { limits = limits, run = { handler = handler, accept = accept } }
end

local clients = {}

--- A client of the patient server, or of another; closed after the spec.
-- @tparam[opt] integer window as of tcp.connect
-- @tparam[opt] table to a server
function M.connect(window, to)
  local c = tcp.connect((to or M.server).port, window)
  clients[#clients + 1] = c
  return c
end

local function leave()
  for i = #clients, 1, -1 do
    clients[i]:close()
    clients[i] = nil
  end
  collectgarbage()
  collectgarbage()
  assert(httpd.live_handles() == 0, "handles are left open")
end

--- Stands while the specs of a `describe` run: `site.server`, the patient one, and `site.impatient`. Each spec's clients
-- are closed after it.
-- @tparam function setup
-- @tparam function teardown
-- @tparam function after_each
function M.stand(setup, teardown, after_each)
  setup(function()
    M.server, M.impatient = M.start(PATIENT), M.start(IMPATIENT)
  end)
  teardown(function()
    M.server:stop()
    M.impatient:stop()
  end)
  after_each(leave)
end

--- The response to a request, byte for byte, on a connection of its own.
function M.ask(text, head)
  return assert(M.connect():ask(text, head))
end

function M.get(target)
  return M.ask("GET " .. target .. " HTTP/1.1\r\nHost: a\r\n\r\n")
end

return M
