local api = require "spec.support.api"
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
    local away = api.start { state = { generation = 2, reload = { ok = false,
      message = "config: /home/shop/atelier.conf.lua: unknown key 'workrs'" } } }
    local answer = away:get "/readyz"
    away:stop()
    assert.equal("config: atelier.conf.lua: unknown key 'workrs'", answer.json.reload_error)
  end)

  it("is not ready while the database hangs, and again once it goes on", function()
    local backends = service.conn:query [[select pid from pg_stat_activity
      where application_name like 'atelier front%' and datname = current_database()]]
    assert.is_true(#backends > 0)
    for _, row in ipairs(backends) do assert.equal(0, signal.kill(row.pid, signal.SIGSTOP)) end
    local hung
    repeat hung = service:get "/readyz" until hung.status == 503
    for _, row in ipairs(backends) do assert.equal(0, signal.kill(row.pid, signal.SIGCONT)) end
    assert.is_false(hung.json.ready)
    local back
    repeat back = service:get "/readyz" until back.status == 200
    assert.is_true(back.json.ready)
  end)

  it("tells that it can serve, and what became of the last reload", function()
    local answer = service:get "/readyz"
    assert.equal(200, answer.status)
    assert.same({ ready = true, generation = 3, reload_error = "plans.lua:3: oops" }, answer.json)
  end)
end)
