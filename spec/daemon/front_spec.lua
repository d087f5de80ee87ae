-- A front's limits: what the configuration says of scripts and connections holds in the process.
local services = require "spec.daemon.support.service"
local tcp = require "spec.support.tcp"

describe("a front", function()
  local service

  after_each(services.close_all)

  -- A route of a broken resource, in the place of the health check.
  local function with_handler(body)
    service:write("lua/api/health.lua", ([[return {
      { method = "GET", path = "/healthz", auth = "none", handler = function() return 200, { status = "ok" } end },
      { method = "GET", path = "/readyz", auth = "none", handler = function() %s end } }
    ]]):format(body))
  end

  it("ends a script that never ends, says where, and answers the others", function()
    service = services.new { config = { script_time = 1 } }
    with_handler "while true do end"
    service:start()
    local front = service:process("front 1").pid
    assert.equal(500, service:get("/readyz").status)
    assert.equal(200, service:get("/healthz").status)
    assert.equal(front, service:process("front 1").pid)
    service:await("it is logged", function() return service:log():find("health%.lua:3:") end)
    service:stop()
  end)

  it("has as many connections as it may, and room for them", function()
    service = services.new { config = { front_connections = 1500 } }
    service:start()
    local limits = services.slurp(("/proc/%d/limits"):format(service:process("front 1").pid))
    local soft, hard = limits:match "Max open files +(%d+) +(%d+)"
    assert.is_true(tonumber(soft) >= math.min(3200, tonumber(hard)))
    local client = tcp.connect(service:port())
    assert.equal(200, client:ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").status)
    client:close()
    service:stop()
  end)

  it("has as many as there may be open files for, and says so when those are fewer", function()
    service = services.new { config = { front_connections = 100000 } }
    service:start()
    local limits = services.slurp(("/proc/%d/limits"):format(service:process("front 1").pid))
    local soft, hard = limits:match "Max open files +(%d+) +(%d+)"
    local is_enough = tonumber(hard) >= 225200
    assert.equal(is_enough and 225200 or tonumber(hard), math.min(tonumber(soft), 225200))
    assert.equal(is_enough, not service:log():find("fewer connections", 1, true))
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)
end)
