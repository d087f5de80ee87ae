local api = require "spec.support.api"

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

  it("tells that it can serve, and what became of the last reload", function()
    local answer = service:get "/readyz"
    assert.equal(200, answer.status)
    assert.same({ ready = true, generation = 3, reload_error = "plans.lua:3: oops" }, answer.json)
  end)
end)
