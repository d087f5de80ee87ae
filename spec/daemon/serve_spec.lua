-- The commands around the service: what they refuse, what they tell, what the service manager hears.
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local pg = require "atelier.pg"
local program = require "spec.support.program"
local services = require "spec.daemon.support.service"
local signal = require "posix.signal"
local socket = require "posix.sys.socket"
local unistd = require "posix.unistd"

describe("serve", function()
  local service

  after_each(services.close_all)

  -- Runs it to its end: exit code and the one object that it prints.
  local function refused(...)
    local process = service:launch(...)
    local code = process.wait()
    return code, json.decode(process.output()) or {}, process.errors()
  end

  it("refuses a port that is taken, and names it", function()
    service = services.new()
    local server = assert(httpd.listen {})
    service:configure { listen_port = server:port() }
    local code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.equal("EADDRINUSE", answer.code)
    assert.matches("port " .. server:port() .. " of 127%.0%.0%.1 is taken", answer.message)
    server:close()
  end)

  it("prints one object once it serves, and no other", function()
    service = services.new()
    service:start("serve", "--json")
    local answer = assert(json.decode(service.master.output()))
    assert.same({ true, "ok", "serving", service.master.pid, 1, service:state().url, json.array {} }, { answer.ok,
      answer.code, answer.message, answer.pid, answer.generation, answer.url, answer.warnings })
    service:reload()
    service:stop()
    assert.same(answer, json.decode(service.master.output()))
  end)

  it("prints one object when its first generation is refused", function()
    service = services.new()
    service:write("lua/daemon/worker.lua", "x = (")
    local code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.same({ false, "not_started" }, { answer.ok, answer.code })
    assert.matches("worker.lua", answer.message, 1, true)
  end)

  it("is told of where the configuration is broken meanwhile", function()
    service = services.new()
    service:start()
    local path = service.dir .. "/atelier.conf.lua"
    local before = services.slurp(path)
    local file = assert(io.open(path, "w"))
    file:write((before:gsub("return {", "return { fronts = 0,", 1)))
    file:close()
    local code, answer
    service:await("status finds it ready", function() -- a machine that stands still may keep it from that
      code, answer = refused("status", "--json")
      return code == 0
    end)
    assert.same({ 0, true, true, service.master.pid, { "config" } }, { code, answer.ok, answer.ready, answer.pid,
      { table.unpack(answer.warnings) } })
    assert.matches("fronts must be above 0", answer.config_errors[1], 1, true)
    assert.matches("fronts must be above 0", select(3, refused "status"), 1, true)
    service:stop()
  end)

  it("refuses an address that is none", function()
    service = services.new()
    service:configure { listen_host = "nowhere.example" }
    local code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.equal("address", answer.code)
    assert.matches("nowhere%.example", answer.message)
  end)

  it("refuses to begin without a database, and tells of `up`", function()
    service = services.new()
    service.world.env.DATABASE_URL = ""
    local code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.equal("no_database", answer.code)
    assert.matches("set DATABASE_URL.*atelier up", answer.message)
    -- No patience helps against an address that is none.
    service.world.env.DATABASE_URL = "postgres.example"
    code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.equal("conninfo", answer.code)
    assert.matches("malformed connection string", answer.message)
  end)

  it("refuses a schema that is not this program's, and tells of `migrate`", function()
    service = services.new()
    service:write("sql/99_more.sql", "select 1;\n")
    local code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.equal("schema", answer.code)
    assert.matches("99_more%.sql.*atelier migrate", answer.message)
  end)

  it("refuses a broken configuration, and a script that is broken from the start", function()
    service = services.new()
    service:write("lua/plans.lua", "return return\n")
    local code, _, errors = refused "serve"
    assert.equal(1, code)
    assert.matches("service not started.*lua/plans%.lua:1:", errors)
    service:write("../atelier.conf.lua", "return {\n worker_bach = 1 }\n")
    local answer
    code, answer = refused("serve", "--json")
    assert.equal(1, code)
    assert.matches("worker_bach", answer.message)
  end)

  it("refuses to run twice over one state folder, as does `up`", function()
    service = services.new()
    service:start()
    for _, command in ipairs { "serve", "up" } do
      local code, answer = refused(command, "--json")
      assert.equal(1, code)
      assert.equal("running", answer.code)
      assert.matches("process " .. service.master.pid, answer.message)
    end
    service:stop()
  end)

  it("starts without its database, says so, and serves once it is there", function()
    service = services.new()
    local url = service.world.env.DATABASE_URL
    local host = url:match "host=(%S+)"
    service.world.env.DATABASE_URL = url:gsub("host=%S+", "host=" .. service.dir .. "/socket")
    service:start()
    assert.matches("the service starts and waits for it", service:log())
    assert.equal(503, service:get("/readyz").status)
    assert.equal(200, service:get("/healthz").status)
    local code, text = program.run({ "status", "--json" }, service.world.env)
    assert.equal(1, code)
    assert.is_false(json.decode(text).ready)
    assert.is_true(json.decode(text).running)
    assert(unistd.link(host, service.dir .. "/socket", true))
    service:await("it is ready", function() return service:get("/readyz").status == 200 end)
    service.world:customers(2)
    service.world:await "not exists (select from file_generation_queue where status in ('queued', 'processing'))"
    service:stop()
  end)

  it("says what to do about a database that does not exist, and goes on trying", function()
    service = services.new { env = { ATELIER_LOG_FORMAT = "json" } }
    local url = service.world.env.DATABASE_URL
    service.world.env.DATABASE_URL = url:gsub("dbname=%S+", "dbname=not_here")
    service:start()
    assert.matches("createdb 'not_here'", service:log(), 1, true)
    local line = service:await("the worker tells", function() return service:log():match '[^\n]*"database not reached"[^\n]*' end)
    assert.matches("create it .*atelier migrate", json.decode(line).remedy)
    assert.equal(503, service:get("/readyz").status)
    local name = url:match "dbname=(%S+)"
    service.world.conn:close()
    local admin = assert(pg.connect((url:gsub("dbname=%S+", "dbname=postgres"))))
    assert(admin:exec(("create database not_here template %s"):format(name)))
    service:await("it is ready", function() return service:get("/readyz").status == 200 end)
    service:stop()
    assert(admin:exec "drop database not_here")
    admin:close()
    service.world.conn = assert(pg.connect(url))
  end)

  it("logs JSON from the first line on, when told to", function()
    service = services.new { env = { ATELIER_LOG_FORMAT = "json" } }
    service:start()
    service:stop()
    local count = 0
    for line in service:log():gmatch "[^\n]+" do
      count = count + 1
      assert.is_table(json.decode(line), line)
    end
    assert.is_true(count >= 3)
  end)

  it("writes its process id where it is told to, and takes it away", function()
    service = services.new()
    local path = service.dir .. "/a.pid"
    service:start("serve", "--pid-file", path)
    assert.equal(service.master.pid .. "\n", services.slurp(path))
    service:stop()
    assert.equal("", services.slurp(path))
  end)

  it("tells the service manager what it does", function()
    service = services.new()
    local path = service.dir .. "/notify"
    local fd = assert(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0))
    assert(socket.bind(fd, { family = socket.AF_UNIX, path = path }))
    service.world.env.NOTIFY_SOCKET, service.world.env.WATCHDOG_USEC = path, "60000000"
    local function hear(wanted)
      local text
      repeat text = assert(socket.recv(fd, 4096)) until not text:find "^WATCHDOG" or wanted == "WATCHDOG=1"
      assert.equal(wanted, text:match "^[^\n]*")
      return text
    end
    service:start()
    hear "READY=1"
    hear "WATCHDOG=1"
    service:reload()
    assert.matches("\nMONOTONIC_USEC=%d+$", hear "RELOADING=1")
    hear "READY=1"
    service:stop()
    hear "STOPPING=1"
    unistd.close(fd)
  end)
end)

describe("status", function()
  local service

  after_each(services.close_all)

  local function status(...)
    local code, text = program.run({ "status", ... }, service.world.env)
    return code, text
  end

  -- The service is well, and so it says; a machine that stands still for seconds may keep it from that for once.
  local function status_of_ready(...)
    local text
    local words = { ... }
    service:await("status finds it ready", function()
      local code
      code, text = status(table.unpack(words))
      return code == 0
    end)
    return text
  end

  it("tells of a service that runs, and of one that does not any more", function()
    service = services.new()
    local code, text = status()
    assert.equal(1, code)
    assert.matches("not running", text)
    service:start()
    service.world:customer "PHONE-1"
    service.world:await "not exists (select from file_generation_queue where status in ('queued', 'processing'))"
    service:await("it is ready", function() return service:get("/readyz").status == 200 end)
    local answer = json.decode(status_of_ready "--json")
    assert.is_true(answer.ready)
    assert.equal(1, answer.generation)
    assert.equal(service.master.pid, answer.pid)
    assert.equal(4, #answer.processes)
    assert.equal(0, answer.queue.queued.jobs)
    service:write("lua/plans.lua", "return return\n")
    service:reload()
    local state = service:state()
    text = status_of_ready()
    assert.matches("generation +1, since " .. state.since:gsub("%p", "%%%0") .. "\n", text)
    assert.matches("refused at " .. state.reload.at:gsub("%p", "%%%0") .. ": lua/plans%.lua:1:", text)
    assert.matches("keeper +%d+ +ready", text)
    service.master.kill(signal.SIGKILL)
    service.master.wait()
    code, text = status "--json"
    assert.equal(1, code)
    answer = json.decode(text)
    assert.is_false(answer.running)
    assert.equal("not_running", answer.code)
  end)
end)
