local api = require "spec.support.api"
local postgres = require "spec.support.postgres"
local prometheus = require "spec.support.prometheus"

describe("GET /metrics", function()
  local service

  local function start(config)
    service = api.start { config = config }
  end

  after_each(function()
    service:stop()
  end)

  it("is Prometheus' text, with requests and the queue", function()
    start()
    service:get("/api/ate/status?device_hash=DEV-PRO", { token = service:token(service.pro.user) })
    service:get("/nowhere/" .. ("x"):rep(50))
    local answer = service:get "/metrics"
    assert.equal(200, answer.status)
    assert.equal("text/plain; version=0.0.4; charset=utf-8", answer.headers["content-type"])
    local families = prometheus.parse(answer.body)
    assert.equal(1, prometheus.value(families, "atelier_http_requests_total", { route = "/api/ate/status", status = "200" }))
    assert.equal(1, prometheus.value(families, "atelier_http_requests_total", { route = "none", status = "404" }))
    assert.equal(1, prometheus.value(families, "atelier_database_up"))
    assert.equal(3, prometheus.value(families, "atelier_queue_jobs", { state = "queued" }))
    assert.equal(0, prometheus.value(families, "atelier_queue_jobs", { state = "processing" }))
    assert.is_true(prometheus.value(families, "atelier_queue_oldest_seconds", { state = "queued" }) > 0)
    assert.equal(0, prometheus.value(families, "atelier_queue_oldest_seconds", { state = "failed" }))
    assert.is_nil(answer.body:find("nowhere", 1, true), "a path is no label")
  end)

  it("is refused to whom a proxy passes on, whoever that says it is", function()
    start()
    for _, headers in ipairs { { ["X-Forwarded-For"] = "127.0.0.1" }, { Forwarded = "for=127.0.0.1" },
      { ["X-Real-IP"] = "127.0.0.1" }, { Via = "1.1 proxy" } } do
      local answer = service:get("/metrics", { headers = headers })
      assert.equal(403, answer.status)
      assert.equal("forbidden", answer.json.code)
    end
  end)

  it("goes on without the database", function()
    start()
    local name = service.conn:query("select current_database() as name")[1].name
    postgres.run(postgres.conninfo "postgres", ('alter database "%s" allow_connections false'):format(name))
    assert(service.conn:exec [[select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()]])
    local families
    local deadline = os.time() + 60
    repeat
      local answer = service:get "/metrics"
      assert.equal(200, answer.status)
      families = prometheus.parse(answer.body)
      assert.is_true(os.time() < deadline)
    until prometheus.value(families, "atelier_database_up") == 0
    assert.is_nil(families.atelier_queue_jobs)
    assert.is_true(prometheus.value(families, "process_resident_memory_bytes") > 0)
  end)
end)

-- No hook has run here: requests come while a process still starts, too.
describe("the door to /metrics", function()
  local resource = require "api.metrics"

  local function is_open(peer, allow)
    local app = { config = { metrics_allow = allow }, db = { service = function() return nil, "down" end } }
    local call = { app = app, request = { peer = peer, headers = {} }, refuse = function(_, status) error(status, 0) end }
    local ok, status = pcall(resource[1].handler, call)
    assert.equal(ok and 200 or 403, status)
    return ok
  end

  it("is open to this host and to those that are listed", function()
    for _, peer in ipairs { "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1" } do
      assert.is_true(is_open(peer, {}), peer)
    end
    for _, peer in ipairs { "10.0.0.1", "::2", "::ffff:10.0.0.1", "", "unix", "fe80::1" } do
      assert.is_false(is_open(peer, {}), peer)
    end
    assert.is_true(is_open("192.0.2.77", { "192.0.2.64/26" }))
    assert.is_true(is_open("2001:db8::5", { "192.0.2.1", "2001:db8::/32" }))
    assert.is_false(is_open("192.0.2.63", { "192.0.2.64/26" }))
  end)

  it("asks the database again when whoever asked went away meanwhile", function()
    local asked = 0
    local app = { config = { metrics_allow = {} }, db = { service = function()
      asked = asked + 1
      coroutine.yield()
    end } }
    for n = 1, 2 do
      local request = coroutine.create(resource[1].handler)
      assert(coroutine.resume(request, { app = app, request = { peer = "127.0.0.1", headers = {} } }))
      assert.equal(n, asked)
      coroutine.close(request)
    end
  end)
end)
