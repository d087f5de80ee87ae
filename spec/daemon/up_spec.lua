-- `atelier up` and the demo: everything at once, with a Postgres of its own that goes with the service.
local http = require "atelier.http"
local postgres = require "postgres"
local services = require "spec.daemon.support.service"
local signal = require "posix.signal"

describe("a service with a private database", function()
  local service

  before_each(function()
    service = services.new { template = false }
    service.world.env.DATABASE_URL = ""
    service.world.env.ATELIER_TEMPLATES = service.root .. "/templates"
    assert(os.execute("cp -R templates " .. service.root))
  end)

  after_each(function()
    local dir = service.dir .. "/postgres"
    service:close()
    service = nil
    assert.is_nil((io.open(dir .. "/data/postmaster.pid")))
  end)

  local function cluster()
    return postgres.status { dir = service.dir .. "/postgres" }
  end

  local function is_ready()
    local response = service:get "/readyz"
    return response and response.status == 200
  end

  it("is made, migrated, given the shipped templates, served, and stopped with it", function()
    service:start "up"
    service:await("it is ready", is_ready)
    assert.matches("smartgram 1%.0%.0 published", service:log())
    assert.is_true(cluster().running)
    local stopper = service:launch("env", "--stop", "--json")
    assert.equal(1, (stopper.wait()))
    local answer = require("atelier.json").decode(stopper.output())
    assert.same({ false, "running" }, { answer.ok, answer.code })
    assert.matches(("process %d"):format(service.master.pid), answer.message, 1, true)
    assert.is_true(cluster().running)
    service:stop()
    assert.is_false(cluster().running)
    service:start "up"
    assert.is_nil(service:log():match "published")
    service:stop()
    assert.is_false(cluster().running)
  end)

  it("has its database back when somebody kills that, and stops what a killed service had started", function()
    service:start "up"
    service:await("it is ready", is_ready)
    local pid = cluster().pid
    signal.kill(pid, signal.SIGKILL)
    service:await("another server", function()
      local now = cluster()
      return now.running and now.pid ~= pid
    end)
    service:await("it is ready again", is_ready)
    service.master.kill(signal.SIGKILL)
    service.master.wait()
    service:await_silence()
    assert.is_true(cluster().running)
    service:start "up"
    service:await("it is ready", is_ready)
    service:stop()
    assert.is_false(cluster().running)
  end)

  it("leaves a database running that ran already", function()
    assert(postgres.ensure { dir = service.dir .. "/postgres" })
    service:start "up"
    service:stop()
    assert.is_true(cluster().running)
    assert(postgres.stop { dir = service.dir .. "/postgres" })
  end)

  it("is what the demo ends in, with a link for each customer and the operator", function()
    service:start "demo"
    service:await("it is ready", is_ready)
    local text = service.master.output()
    for _, who in ipairs { "starter", "pro", "max" } do
      local url, token = text:match("  " .. who .. " +(http://%S-)/dashboard#token=(%S+)\n")
      local device = ("DEMO-%s-001"):format(who:upper())
      local response = assert(http.request { url = url .. "/api/ate/status?device_hash=" .. device, timeout = 60,
        headers = { ["Authorization"] = "Bearer " .. token } })
      assert.equal(200, response.status)
      assert.matches('"is_ready":true', response.body, 1, true)
    end
    assert.matches("operator +http://%S+/dashboard/ops#token=", text)
    local again = service:launch "demo"
    assert.equal(0, (again.wait()))
    assert.matches("a service runs over .* already, process " .. service.master.pid, again.output())
    service:stop()
  end)

  it("is not needed by demos: three first ones at once each show three files, wherever the configured store is", function()
    service.world.env.SERVE = "0"
    service:configure { storage = "s3" }
    local demos = {}
    for i = 1, 3 do
      demos[i] = service:launch "demo"
    end
    for _, demo in ipairs(demos) do demo.wait() end
    assert(postgres.stop { dir = service.dir .. "/postgres" })
    for _, demo in ipairs(demos) do
      assert.equal(0, demo.wait(), demo.output() .. demo.errors())
      assert.equal(3, select(2, demo.output():gsub("opened with its key, signed by", "")))
    end
  end)
end)
