local host = require "atelier.host"
local api = require "spec.support.api"
local httpd = require "atelier.httpd"
local log = require "log"
local signal = require "posix.signal"

describe("api.health", function()
  local service
  setup(function() service = api.start { state = { generation = 3, reload = { ok = false, message = "plans.lua:3: oops" } } } end)
  teardown(function() service:stop() end)

  it("tells that the process lives", function()
    local answer = service:get "/healthz"
    assert.equal(200, answer.status)
    assert.same({ status = "ok" }, answer.json)
    assert.matches("^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x$", answer.headers["x-request-id"])
  end)

  it("tells no folder of this host", function()
    for told, message in pairs {
      ["config: atelier.conf.lua: unknown key 'workrs'"] = "config: /home/shop/atelier.conf.lua: unknown key 'workrs'",
      ["lua/api/plans.lua:1: no more plans"] = host.root .. "/lua/api/plans.lua:1: no more plans",
    } do
      local away = api.start { state = { generation = 2, reload = { ok = false, message = message } } }
      local answer = away:get "/readyz"
      away:stop()
      assert.equal(told, answer.json.reload_error)
    end
  end)

  it("is not ready while the database hangs, and again once it goes on", function()
    local deadline = os.time() + 60
    local backends
    repeat -- one that came later would answer
      assert(os.time() < deadline)
      backends = service.conn:query [[select pid from pg_stat_activity
        where application_name like 'atelier front%' and datname = current_database() and state = 'idle']]
    until #backends == service.config.api_connections
    for _, row in ipairs(backends) do assert.equal(0, signal.kill(row.pid, signal.SIGSTOP)) end
    local hung
    repeat hung = service:get "/readyz" until hung.status == 503
    for _, row in ipairs(backends) do assert.equal(0, signal.kill(row.pid, signal.SIGCONT)) end
    assert.is_false(hung.json.ready)
    local back
    repeat back = service:get "/readyz" until back.status == 200
    assert.is_true(back.json.ready)
  end)

  -- Asks a front whose database is `db`, so many times.
  local function ask(db, count)
    local handler
    for _, route in ipairs(require "api.health") do
      handler = route.operation == "ready" and route.handler or handler
    end
    local server, answers, failure = assert(httpd.listen {}), {}, nil
    local app = { has_started = true, db = db, state = function() end, ready = function() return true end }
    assert(server:run { handler = function() end, on_start = function()
      for i = 1, count do
        local ok, status = pcall(handler, { app = app })
        failure, answers[i] = failure or not ok and status, status
      end
      server:stop()
    end })
    server:close()
    assert(not failure, failure)
    return answers
  end

  it("asks again after its question failed", function()
    local asked = 0
    local db = { silence = function() return math.huge end }
    function db.service()
      asked = asked + 1
      if asked == 1 then error "not enough memory" end
      return asked == 2 and {} or nil, "none became free", "busy"
    end
    local out = assert(io.tmpfile())
    log.configure { out = out }
    finally(function()
      log.configure { out = io.stderr }
      out:close()
    end)
    assert.same({ 503, 200, 200 }, ask(db, 3))
    out:seek "set"
    assert.matches("the database could not be asked.*not enough memory", out:read "a")
  end)

  it("asks again after it could not ask", function()
    local db = { silence = function() return math.huge end, service = function() return {} end }
    local spawn, count = httpd.spawn, 0
    finally(function() httpd.spawn = spawn end) -- luacheck: ignore 122
    httpd.spawn = function(...) -- luacheck: ignore 122
      count = count + 1
      if count > 1 then return spawn(...) end
      return nil, "spawn: not enough memory", "memory"
    end
    assert.same({ 503, 200 }, ask(db, 2))
  end)

  it("is ready while others are answered, although its own question waits", function()
    local db = { silence = function() return 1.5 end, service = function() httpd.sleep(0.1) end }
    assert.same({ 200, 200 }, ask(db, 2))
  end)

  it("tells that it can serve, and what became of the last reload", function()
    local answer = service:get "/readyz"
    assert.equal(200, answer.status)
    assert.same({ ready = true, generation = 3, reload_error = "plans.lua:3: oops" }, answer.json)
  end)
end)
