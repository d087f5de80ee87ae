--- The API in a child process, over a migrated database of its own with three customers; an HTTP client and tokens.
--
--   local service = api.start { config = { rate_burst = 5 } }        -- before_each, or setup
--   local answer = service:get("/api/ate/plans", { token = service:token(service.pro.user) })
--   answer.status, answer.headers["retry-after"], answer.body, answer.json
--   service:stop()                                                    -- asserts that it ended well
--
-- `service.starter`, `.pro` and `.max` are {user, device (id), hash}; each has an active device, licence and
-- subscription, and so a queued job. `service.conn` is a connection as superuser; `service:file("pro", bytes)`
-- completes the job with a file in the store.
-- @module spec.support.api
local config = require "config"
local crypto = require "atelier.crypto"
local host = require "atelier.host"
local http = require "atelier.http"
local httpd_child = require "spec.support.httpd_child"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local migrate = require "migrate"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"
local program = require "spec.support.program"
local storage = require "storage"
local tcp = require "spec.support.tcp"
local time = require "posix.time"
local token = require "api.token"

local M = {}

local Service = {}
Service.__index = Service

M.SECRET = "a secret that only the specs know"

local PLANS = { "starter", "pro", "max" }

local function user_id(n)
  return ("a0000000-0000-4000-8000-%012x"):format(n)
end

-- A world to copy: schema, template, customers. Made once a run.
local function template()
  return postgres.template("api", function(conninfo)
    local conn <close> = assert(pg.connect(conninfo))
    assert(migrate.run { conn = conn, dir = host.root .. "/sql" })
    assert(conn:query([[select publish_ate_template('smartgram', '1.0.0', 'templates/smartgram.at/', '[]', '[]', $1)]],
      { ("ab"):rep(32) }))
    for n, plan in ipairs(PLANS) do
      assert(conn:query("insert into auth.users (id, email) values ($1::uuid, $2)", { user_id(n), plan .. "@spec.invalid" }))
      local device = assert(conn:query([[insert into devices (user_id, device_hash, device_model, status)
        values ($1::uuid, $2, 'phone', 'active') returning id::text]], { user_id(n), "DEV-" .. plan:upper() }))[1].id
      assert(conn:query([[insert into licenses (device_id, is_valid, expires_at)
        values ($1::uuid, true, date_trunc('second', now() + interval '30 days'))]], { device }))
      assert(conn:query("insert into subscriptions (device_id, status, plan_id) values ($1::uuid, 'active', $2)",
        { device, plan }))
    end
  end)
end

local function configure(self, changes)
  local path = self.dir .. "/atelier.conf.lua"
  local file = assert(io.open(path, "w"))
  file:write "return {}\n"
  file:close()
  local values = assert(config.load(path))
  values.state_dir, values.database_url, values.jwt_secret = self.dir, self.url, M.SECRET
  values.keyring, values.storage_dir = self.dir .. "/keyring.json", self.dir .. "/files"
  values.supabase_url, values.jwks_url, values.listen_port, values.log_level = nil, nil, 0, "info"
  values.api_timeout = 60 -- a slow machine must not change an answer
  for name, value in pairs(changes or {}) do
    values[name] = value
  end
  return values
end

--- Starts one.
-- @tparam[opt] table options `config` (keys that differ) · `url`: another database · `state`: what the master said ·
--   `limits` of atelier.httpd · `resources`: names of further resource modules · `prepare(app)`, called in the child ·
--   `wait`: false: return before it is ready
-- @treturn table service
function M.start(options)
  options = options or {}
  local self = setmetatable({ dir = program.folder(), url = options.url or postgres.database("api", template()) }, Service)
  self.config = configure(self, options.config)
  self.ring = assert(keyring.ensure(self.config.keyring))
  self.conn = assert(pg.connect(options.url and options.superuser or self.url))
  for n, plan in ipairs(PLANS) do
    local row = not options.superuser and self.conn:query(
      "select id::text as device, device_hash as hash from devices where user_id = $1::uuid", { user_id(n) })[1]
    self[plan] = row and { user = user_id(n), device = row.device, hash = row.hash }
  end
  self.child = self:run(options)
  self.port = self.child.port
  if options.wait ~= false then
    self:wait()
  end
  return self
end

--- Waits until the API says that it is ready (or, with false, that it is not); raises after a minute.
function Service:wait(is_ready)
  local deadline, wanted = os.time() + 60, is_ready == false and 503 or 200
  while self:get("/readyz").status ~= wanted do
    assert(os.time() < deadline, "never came to " .. wanted .. "\n" .. self.child:log() .. self:log())
    time.nanosleep { tv_sec = 0, tv_nsec = 5000000 }
  end
end

-- The log of the API goes into a file of its own. A slow machine is no script that runs wild: slices may be long.
function Service:run(options)
  local limits = { slice_ms = 20000 }
  for name, value in pairs(options.limits or {}) do
    limits[name] = value
  end
  local app = assert(require("api").new { config = self.config, resources = options.resources,
    state = function() return options.state end })
  local handle = app:handler()
  return httpd_child.start { limits = limits, drain = options.drain, run = {
    handler = function(request) handle(request) end, -- httpd_child gives more arguments
    accept = app:acceptor(), on_complete = app:completer(),
    on_tick = function() app:tick() end,
    on_start = function()
      require("log").configure { level = self.config.log_level, out = assert(io.open(self.dir .. "/log", "a")) }
      if options.prepare then options.prepare(app) end
      app:start()
    end,
  } }
end

--- What the API logged.
function Service:log()
  local file <close> = assert(io.open(self.dir .. "/log"))
  return file:read "a"
end

--- A user's token. `claims` differ from a good token's: a value of json.null takes a claim away.
function Service:token(user, claims)
  local now = os.time()
  local all = { sub = user, role = "authenticated", aud = "authenticated", iat = now, exp = now + 3600 }
  for name, value in pairs(claims or {}) do
    all[name] = value ~= json.null and value or nil
  end
  return token.sign(self.config.jwt_secret, all)
end

--- An operator's token.
function Service:operator()
  return token.operator(self.config.jwt_secret, self.config, 3600)
end

--- Makes a request. `options`: `token` (a bearer token), `headers`, `body` (a table becomes JSON), `timeout`.
-- @treturn table `status`, `headers` (names in lower case), `body`, `json` (decoded, when it is JSON)
function Service:request(method, path, options)
  options = options or {}
  local headers, body = {}, options.body
  if type(body) == "table" then
    body = assert(json.encode(body))
    headers["Content-Type"] = "application/json"
  end
  if options.token then
    headers.Authorization = "Bearer " .. options.token
  end
  for name, value in pairs(options.headers or {}) do
    headers[name] = value
  end
  local answer = assert(http.request { url = ("http://127.0.0.1:%d%s"):format(self.port, path), method = method,
    headers = headers, body = body, timeout = options.timeout or 60 })
  answer.json = (answer.headers["content-type"] or ""):find "json" and json.decode(answer.body) or nil
  return answer
end

function Service:get(path, options)
  return self:request("GET", path, options)
end

function Service:post(path, body, options)
  options = setmetatable({ body = body }, { __index = options })
  return self:request("POST", path, options)
end

--- A raw TCP connection, see spec.support.tcp.
function Service:connect()
  return tcp.connect(self.port)
end

--- Completes a plan's queued job with a file of these bytes in the store; gives the row of ate_files.
function Service:file(plan, bytes)
  bytes = bytes or ("the file of " .. plan)
  local customer = self[plan]
  local job = assert(self.conn:query("select queue_ate_generation($1)::text as id", { customer.hash }))[1].id
  local claimed = assert(self.conn:query("select * from claim_ate_generations('spec', 1, '60 s', $1::uuid)", { job }))[1]
  local artifact = self.conn:query("select gen_random_uuid()::text as id")[1].id
  local key = assert(storage.key(customer.hash, "smartgram", artifact))
  local store <close> = setmetatable({ it = assert(storage.open(self.config)) },
    { __close = function(s) s.it:close() end })
  assert(store.it:wait(assert(store.it:put(key, { bytes }))))
  local _, master = self.ring:master()
  assert(self.conn:query([[select complete_ate_generation($1::uuid, $2, $3, $4, $5, $6, $7)]], { job, key, #bytes,
    crypto.hex(crypto.sha256(bytes)), ("cd"):rep(32), claimed.attempt,
    pg.json { artifact_id = artifact, tools = claimed.plan_tools, master_key_id = master, container = "ate1" } }))
  return self.conn:query([[select f.*, f.id::text as id from ate_files f where f.device_id = $1::uuid]],
    { customer.device })[1]
end

--- Drains the API and asserts that it ended well.
function Service:stop()
  self.conn:close()
  self.child:stop()
  program.remove(self.dir)
end

return M
