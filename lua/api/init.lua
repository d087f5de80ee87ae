--- The HTTP API of a front: routes, who asks, limits, errors. Resources are modules of their own.
--
-- How to write a resource: a module that returns a list of routes, its name added to RESOURCES below. A route is
--   { method = "GET", path = "/api/ate/things/{id}", operation = "getThing", summary = "…",
--     auth = "user",    -- "user", "operator", "none"; "link": a user where there is a token, else call.user is nil
--     params = { id = schema.uuid { is_in_path = true }, device_hash = schema.device_hash { required = true } },
--     body = { type = "object", properties = { … } },                    -- JSON; absent: a body is refused
--     responses = { [200] = { description = "…", schema = { … } } },     -- fields as of api.schema
--     handler = function(call) return 200, { … }, headers end }
-- `call` has request (of atelier.httpd), id (of the request, for log lines), user ({id, role, claims}), params and
-- body (both checked), app, config. `call:query(name, sql, params)` runs a statement as the user, `call:service(…)`
-- with the service's rights, `call:refuse(status, code, message, {details, hint, headers})` ends it,
-- `call:respond{…}` answers with a file, a stream or anything but JSON (then return nothing). A GET route answers
-- HEAD too: `call.request.method` tells. A handler may set `call.on_complete = function(info) … end`, called with
-- what atelier.httpd says of the end. `is_quick = true`: its one statement is a short look-up, sent together with
-- others. Without `operation` it is not in the OpenAPI document. The list may have start(app), tick(app), stop(app).
-- @module api
local auth = require "api.auth"
local call = require "api.call"
local cors = require "api.cors"
local database = require "api.database"
local httpd = require "atelier.httpd"
local keyring = require "ate.keyring"
local link = require "api.link"
local log = require "log"
local metrics = require "metrics"
local openapi = require "api.openapi"
local addresses = require "addresses"
local problem = require "api.problem"
local rate = require "api.rate"
local router = require "api.router"
local stat = require "posix.sys.stat"

local M = {}

local RESOURCES = {
  "api.health", "api.status", "api.generate", "api.files", "api.history", "api.plans", "api.license",
  "api.download", "dashboard", "api.cors",
  "api.events", "api.metrics",
  "api.ops.queue", "api.ops.jobs", "api.ops.service",
}

local App = {}
App.__index = App

local BODY_BYTES = 16384
local MOST_LINKS = 2048 -- that are given again for a fifth of their time, and as many before them

-- ==== a request ================================================================================

local function identify(self, c)
  local kind = c.route.auth
  if kind == "none" then
    return
  end
  local authorization = c.request.headers.authorization
  if kind == "link" and not authorization then
    return
  end
  local user = self.auth:require(authorization, kind == "operator" and kind or "user")
  c.user = user
  local seconds = user.id and self.limiter:take(user.id, httpd.now())
  if seconds then
    c:refuse(429, "too_many_requests", "too many requests", { headers = { ["Retry-After"] = tostring(seconds) } })
  end
end

local function find(self, c)
  local request = c.request
  local place, in_path = self.router:find(request.path)
  if not place then
    c:refuse(404, "not_found", "there is nothing at this path")
  end
  c.route = place.methods[request.method]
  if not c.route and request.method ~= "OPTIONS" then
    c:refuse(405, "method_not_allowed", "this path does not take that method", { headers = { Allow = place.allow } })
  end
  return place, in_path
end

local function dispatch(self, c)
  local place, in_path = find(self, c)
  if not c.route then
    return c:send(cors.preflight(c, place.allow))
  end
  identify(self, c)
  c:read_params(in_path)
  c:read_body()
  local status, body, headers = c.route.handler(c)
  if status then
    c:send(status, body, headers)
  end
end

local function trace(raised)
  return problem.is(raised) and raised or debug.traceback(tostring(raised), 2)
end

--- The function that handles a request, for atelier.httpd.
function App:handler()
  return function(request)
    local c = request.call or call.new(self, request)
    request.call = c
    local ok, raised = xpcall(dispatch, trace, self, c)
    if not ok then
      c:fail(raised)
    end
  end
end

--- The function that says how large a body may be, or refuses it unread.
function App:acceptor()
  return function(request)
    local c = call.new(self, request)
    request.call = c
    local ok, raised = pcall(find, self, c)
    if ok and not (c.route and c.route.body) then
      ok, raised = false, problem.new(400, "bad_request", "this takes no body")
    end
    if ok then
      return c.route.body_bytes or BODY_BYTES
    end
    return problem.is(raised) and c:early(raised) or nil
  end
end

--- The function that is told of a request's end.
function App:completer()
  return function(request, info)
    local c = request.call
    if not c then
      return
    end
    metrics.http(c.route and c.route.path, request.method, info.status, info.seconds, info.bytes_sent)
    if self.logs_all then
      log.debug("request", { request = c.id, method = request.method, path = request.path, status = info.status,
        bytes = info.bytes_sent, milliseconds = math.floor(info.seconds * 1000), user = c.user and c.user.id,
        peer = request.peer })
    end
    if c.on_complete then
      c.on_complete(info)
    end
  end
end

-- ==== keys =====================================================================================

-- Reads the key ring, which another process may have rotated.
local function load_ring(self)
  local info = stat.stat(self.config.keyring)
  local ring, message, code = keyring.ensure(self.config.keyring)
  local links
  if ring then
    links, message, code = link.keys(ring)
  end
  if not links then
    log.error("the key ring cannot be read", { reason = message })
    return nil, message, code
  end
  info = info or stat.stat(self.config.keyring)
  self.ring, self.links, self.ring_mtime, self.ring_inode = ring, links, info.st_mtime, info.st_ino
  return true
end

-- ==== the process ==============================================================================

local function each(self, hook)
  for _, resource in ipairs(self.resources) do
    if resource[hook] then
      resource[hook](self)
    end
  end
end

--- Connects; run in the loop, before the first request.
function App:start()
  self.db:start()
  each(self, "start")
  self.has_started = true
  collectgarbage() -- what loading left, so that an idle process stays small
  -- A request leaves some fifty small values. To sweep them with all that is old, out of a heap that grew meanwhile,
  -- was a fifth of a front's time under load, most of it waiting for memory.
  collectgarbage "generational"
end

--- Called about every second, in the loop.
function App:tick()
  local info = stat.stat(self.config.keyring)
  if info and (info.st_mtime ~= self.ring_mtime or info.st_ino ~= self.ring_inode) then
    load_ring(self)
  end
  each(self, "tick")
end

--- Whether requests can be served now.
function App:ready()
  return not self.is_stopping and self.db:is_ready()
end

--- A short-lived link to a file, for a user who may have it.
-- @tparam string user UUID
-- @tparam string file UUID
-- @treturn string path with its query
function App:link(user, file)
  local now, cache = os.time(), self.made_links
  local made = cache.recent[file] or cache.former[file]
  if made and made.user == user and made.keys == self.links and now < made.again then
    return made.path
  end
  local path = link.make(self.links, user, file, now + self.config.link_time)
  if cache.count >= MOST_LINKS then
    cache.recent, cache.former, cache.count = {}, cache.recent, 0
  end
  cache.count = cache.count + 1
  cache.recent[file] = { user = user, keys = self.links, path = path, again = now + self.config.link_time // 5 }
  return path
end

--- A master key of licence keys; the ring is read again for one that is new.
-- @tparam[opt] string id default the current one
-- @treturn[1] secret
-- @treturn[2] nil
function App:master(id)
  local key = self.ring:master(id)
  if not key then
    load_ring(self)
    key = self.ring:master(id)
  end
  return key
end

--- Who a request comes from, through proxies that are trusted.
-- @tparam userdata request
-- @treturn string address
function App:client(request)
  return addresses.client(request.peer, request.headers["x-forwarded-for"], self.proxies)
end

--- Lets go of everything; what is under way ends first.
function App:stop()
  self.is_stopping = true
  each(self, "stop")
  self.db:close()
end

local function routes_of(resources)
  local routes = {}
  for _, resource in ipairs(resources) do
    table.move(resource, 1, #resource, #routes + 1, routes)
  end
  routes[#routes + 1] = openapi.route(routes)
  return routes
end

--- Builds the application of one process.
-- @tparam table options `config` (all keys; `database_url` must be set), `state`: a function that gives what the
--   master said last
-- @treturn[1] table app
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.new(options)
  local config = options.config
  local self = setmetatable({ config = config, state = options.state or function() end, resources = {},
    made_links = { recent = {}, former = {}, count = 0 },
    next_id = call.ids(), cors = cors.new(config.cors_origins), logs_all = config.log_level == "debug",
    limiter = rate.new(config.rate_limit, config.rate_burst) }, App)
  local message, code
  self.auth, message, code = auth.of_config(config)
  if not self.auth then
    return nil, message, code
  end
  for field, key in pairs { proxies = "trusted_proxies", scrapers = "metrics_allow" } do
    self[field], message = addresses.networks(config[key])
    if not self[field] then
      return nil, ("config: %s: %s"):format(key, message), "config"
    end
  end
  local ok
  ok, message, code = load_ring(self)
  if not ok then
    return nil, message, code
  end
  self.db = database.new { url = config.database_url, connections = config.api_connections,
    timeout = config.api_timeout, name = os.getenv "ATELIER_PROCESS" and "atelier " .. os.getenv "ATELIER_PROCESS" }
  for _, list in ipairs { RESOURCES, options.resources or {} } do
    for _, name in ipairs(list) do
      self.resources[#self.resources + 1] = require(name)
    end
  end
  self.routes = routes_of(self.resources)
  self.router = router.new(self.routes)
  return self
end

return M
