--- The running service for benchmarks: `atelier serve` over a database of its own with customers, tokens and files.
-- @module spec.bench.service
local clock = require "clock"
local host = require "atelier.host"
local http = require "atelier.http"
local json = require "atelier.json"
local lab = require "spec.bench.lab"
local pg = require "atelier.pg"
local secret = require "api.secret"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local token = require "api.token"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Service = {}
Service.__index = Service

local AUDIENCE = { jwt_audience = "authenticated" }

-- Users 1 to n, with one device each, on plan pro; nothing is queued for them.
local IDS = [[create or replace function bench_id(kind text, n bigint) returns uuid language sql immutable
  return (kind || '0000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid]]
local CUSTOMERS = {
  "set session_replication_role = replica",
  "insert into auth.users (id) select bench_id('a', i) from generate_series(1, %d) i",
  [[insert into devices (id, user_id, device_hash, status)
      select bench_id('d', i), bench_id('a', i), 'BENCH-' || i, 'active' from generate_series(1, %d) i]],
  [[insert into licenses (device_id, is_valid, expires_at)
      select bench_id('d', i), true, now() + interval '300 days' from generate_series(1, %d) i]],
  [[insert into subscriptions (device_id, status, plan_id)
      select bench_id('d', i), 'active', 'pro' from generate_series(1, %d) i]],
  "set session_replication_role = origin",
}

-- A customer more, as a shop records it; the subscription's row queues the job.
local PURCHASE = {
  "insert into auth.users (id) values (bench_id('a', $1))",
  [[insert into devices (id, user_id, device_hash, status)
      values (bench_id('d', $1), bench_id('a', $1), 'BENCH-' || $1::bigint, 'active')]],
  [[insert into licenses (device_id, is_valid, expires_at)
      values (bench_id('d', $1), true, now() + interval '300 days')]],
  "insert into subscriptions (device_id, status, plan_id) values (bench_id('d', $1), 'active', 'pro')",
}

local FILES = [[insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum,
    encryption_key_hash, expires_at, tools)
  select bench_id('d', i), t.id, 'smartgram.ate', $2, $3, $4, repeat('a', 64), now() + interval '300 days',
    '["timeline"]'
  from generate_series(1, $1::int) i, ate_templates t where t.is_active]]

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function literal(value)
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local function run(self, words)
  return lab.shell(("cd '%s' && env -u ATELIER_CONFIG DATABASE_URL='%s' ATELIER_STATE='%s' ATELIER_LOG=warn '%s' %s 2>&1")
    :format(self.folder, self.url, self.folder, host.exe, words))
end

--- Sets up a world and starts the service in it.
-- @tparam string name of the benchmark
-- @tparam table options customers (number) · config (keys) · template (folder of a NAME.at; default smartgram)
-- @treturn table service
function M.start(name, options)
  local cluster = lab.cluster()
  local self = setmetatable({ folder = lab.folder .. "/" .. name, cluster = cluster,
    url = lab.database(cluster, "bench_" .. name) }, Service)
  lab.shell(("rm -rf '%s' && mkdir -p '%s'"):format(self.folder, self.folder))
  run(self, "migrate")
  run(self, "template publish " .. (options.template or "smartgram"))
  self.conn = assert(pg.connect(self.url, { timeout = 120 }))
  assert(self.conn:exec(IDS))
  for _, sql in ipairs(CUSTOMERS) do
    assert(self.conn:exec(sql:format(options.customers or 1), { timeout = 600 }))
  end
  local lines = { "return {" }
  local config = { fronts = 1, workers = 1, listen_port = 0, log_level = "warn" }
  for key, value in pairs(options.config or {}) do
    config[key] = value
  end
  for key, value in pairs(config) do
    lines[#lines + 1] = ("  %s = %s,"):format(key, literal(value))
  end
  write(self.folder .. "/atelier.conf.lua", table.concat(lines, "\n") .. "\n}\n")
  self:launch()
  return self
end

--- Starts the service (again).
function Service:launch()
  self.pid = assert(unistd.fork())
  if self.pid == 0 then
    unistd.chdir(self.folder)
    for key, value in pairs { DATABASE_URL = self.url, ATELIER_STATE = self.folder } do
      stdlib.setenv(key, value)
    end
    stdlib.setenv("ATELIER_CONFIG", nil)
    unistd.exec("/bin/sh", { "-c", 'exec "$0" serve >>log 2>&1 </dev/null', host.exe })
    unistd._exit(127)
  end
  lab.await(function()
    local state = self:state()
    self.port = state and tonumber((state.url or ""):match ":(%d+)") or nil
    local answer = self.port and http.request { url = ("http://127.0.0.1:%d/readyz"):format(self.port), timeout = 10 }
    return answer and answer.status == 200
  end, 60, "ready: see " .. self.folder .. "/log")
  self.secret = assert(secret.ensure { state_dir = self.folder })
end

--- What the master tells of itself.
-- @treturn ?table
function Service:state()
  local file = io.open(self.folder .. "/run/master.json")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  local state = text and json.decode(text)
  return state and state.pid == self.pid and state or nil
end

--- The process id of a child by its name, as "worker 1".
function Service:child(name)
  for _, process in ipairs((self:state() or {}).processes or {}) do
    if process.name == name then
      return math.tointeger(process.pid)
    end
  end
end

--- The token of the owner of device n.
function Service:token(n)
  return token.user(self.secret, AUDIENCE, ("a0000000-0000-4000-8000-%012x"):format(n), 86400)
end

--- Gives each of the first `count` customers a file; all are the same object of this size.
-- @tparam integer count
-- @tparam integer bytes
function Service:files(count, bytes)
  local key = ("generated/BENCH/smartgram_%d.ate"):format(bytes)
  lab.shell(("mkdir -p '%s/files/generated/BENCH' && head -c %d /dev/urandom >'%s/files/%s'"):format(self.folder, bytes,
    self.folder, key))
  local digest = lab.shell(("sha256sum '%s/files/%s'"):format(self.folder, key)):match "%x+"
  assert(self.conn:query("delete from ate_files", {}, { timeout = 120 }))
  assert(self.conn:query(FILES, { count, key, bytes, digest }, { timeout = 120 }))
  assert(self.conn:exec("vacuum analyze", { timeout = 120 }))
  return self.folder .. "/files/" .. key
end

--- Records a purchase in one transaction, with a request at this priority where one is given.
-- @tparam integer n customer's number
-- @tparam[opt] integer priority
-- @treturn number moment of the commit
function Service:purchase(n, priority)
  assert(self.conn:exec "begin")
  for _, sql in ipairs(PURCHASE) do
    assert(self.conn:query(sql, { n }))
  end
  if priority then
    assert(self.conn:query("select queue_ate_generation($1, 'smartgram', $2)", { "BENCH-" .. n, priority }))
  end
  assert(self.conn:exec "commit")
  return clock.now()
end

--- Processor time so far of a process of the service, and of Postgres with all its backends.
function Service:cpu(name)
  return lab.family_cpu(self:child(name)), lab.family_cpu(self.cluster.pid)
end

--- Ends it; so does leaving its scope.
function Service:stop()
  if self.pid then
    signal.kill(self.pid, signal.SIGTERM)
    wait.wait(self.pid)
    self.pid = nil
    self.conn:close()
  end
end

Service.__close = Service.stop

-- ==== load ====

--- Runs wrk and returns what it saw.
-- @tparam table options port · requests: {path, token} each · connections · seconds · delay: mean pause in ms before
--   each request
-- @treturn table rate, p50, p99 (ms), errors, bytes (a second)
function M.load(options)
  local path = lab.folder .. "/requests"
  local lines = {}
  for i, request in ipairs(options.requests) do
    lines[i] = request[1] .. " " .. (request[2] or "-")
  end
  write(path, table.concat(lines, "\n") .. "\n")
  local text = lab.shell(("wrk -t1 -c%d -d%ds --timeout 30s -s '%s/spec/bench/wrk.lua' http://127.0.0.1:%d -- '%s' %g")
    :format(options.connections, math.ceil(options.seconds), lab.root, options.port, path, options.delay or 0))
  local found = text:match "\n({.*})"
  return assert(json.decode(found or error(text)))
end

--- Requests of the status of devices 1 to n.
-- @tparam table service
-- @tparam integer n
function M.status_requests(service, n)
  local requests = {}
  for i = 1, n do
    requests[i] = { "/api/ate/status?device_hash=BENCH-" .. i, service:token(i) }
  end
  return requests
end

return M
