-- A new generation: taken over without a gap when all is well, refused with file and line when something is not.
local json = require "atelier.json"
local load_clients = require "spec.daemon.support.load"
local services = require "spec.daemon.support.service"
local signal = require "posix.signal"

local RELOADS = 20

describe("a reload", function()
  local service

  after_each(services.close_all)

  -- The old generation must still answer, and say why there is no new one.
  local function assert_refused(state, pattern)
    assert.is_false(state.reload.ok)
    assert.matches(pattern, state.reload.message)
    assert.equal(1, state.generation)
    assert.equal(200, service:get("/healthz").status)
    assert.matches("reload refused", service:log())
    assert.matches(pattern:gsub("^%^", ""), service:log())
  end

  it("is refused for a script that does not compile, one that fails when it is loaded, a configuration and a template, "
    .. "each with file and line; then taken", function()
    service = services.new()
    service:start()
    local front = service:process "front 1"
    local before = service:write("lua/plans.lua", "local M = {}\nreturn M M\n")
    assert_refused(service:reload(), "lua/plans%.lua:2: ")
    service:write("lua/plans.lua", "local M = {}\n\nerror 'no more plans'\n")
    assert_refused(service:reload(), "lua/plans%.lua:3: no more plans")
    service:write("lua/plans.lua", "local M = {}\nwhile true do\nend\nreturn M\n")
    assert_refused(service:reload(), "lua/plans%.lua:2: still at it after %d+ s")
    service:write("lua/plans.lua", "local M = {}\ncoroutine.wrap(function() while true do end end)()\nreturn M\n")
    assert_refused(service:reload(), "module plans: still at it after all the processor time")
    service:write("lua/plans.lua", "os.exit(0)\n")
    assert_refused(service:reload(), "module plans: .*os%.exit")
    service:write("lua/plans.lua", "-- nothing is left of it\n")
    assert_refused(service:reload(), "module plans: gives a boolean, not a table")
    service:write("lua/plans.lua",
      "local t = setmetatable({}, { __gc = function() while true do end end })\nerror 'and does not end'\n")
    assert_refused(service:reload(), "lua/plans%.lua:2: and does not end")
    service:write("lua/plans.lua", before)
    local check = service:write("lua/daemon/check.lua", "local M = {}\nreturn M M\n")
    assert_refused(service:reload(), "^[^\n]-lua/daemon/check%.lua:2: ")
    service:write("lua/daemon/check.lua", check)
    service:write("../atelier.conf.lua", "return {\n  worker_bach = 3,\n}\n")
    assert_refused(service:reload(), "worker_bach.*did you mean 'worker_batch'")
    service:write("../atelier.conf.lua", "return {\n  worker_batch = \n}\n")
    assert_refused(service:reload(), "atelier%.conf%.lua:3: ")
    service:configure {}
    local main = service:write("../templates/tools.at/main.lua", "local a = 1\nlocal b = {{nothing at all\n")
    assert_refused(service:reload(), "main%.lua:2:")
    service:write("../templates/tools.at/main.lua", main)
    local templates = service.dir .. "/templates"
    assert(os.rename(templates, templates .. ".away"))
    assert_refused(service:reload(), "templates_dir: .*/templates: no such folder")
    assert(os.rename(templates .. ".away", templates))
    service:configure { listen_host = ("x"):rep(200000) }
    assert_refused(service:reload(), "too long: the plan of 200%d%d%d bytes")
    service:configure {}
    assert.equal(front.pid, service:process("front 1").pid, "the first generation has been there all the time")
    local state = service:reload()
    assert.is_true(state.reload.ok)
    assert.equal(2, state.generation)
    assert.not_equal(front.pid, service:process("front 1").pid)
    service:stop()
  end)

  it("is refused when a process of the new generation ends before it is ready", function()
    service = services.new()
    service:start()
    local before = service:write("lua/daemon/keeper.lua", "local M = {}\nfunction M.main()\n  error 'no keys'\nend\nreturn M\n")
    assert_refused(service:reload(), "keeper: .*keeper%.lua:3: no keys")
    service:write("lua/daemon/keeper.lua", before)
    service:await("the failed generation is gone", function() return #service:state().processes == 4 end)
    assert.equal(2, #service:reload().url:gsub("[^:]", ""))
    service:stop()
  end)

  it("brings a changed configuration in: more processes, another port", function()
    service = services.new()
    service:start()
    local first = service:port()
    service:configure { fronts = 2, workers = 2 }
    service:reload()
    assert.is_truthy(service:process "front 2")
    assert.is_truthy(service:process "worker 2")
    assert.equal(first, service:port())
    service:configure { fronts = 1, workers = 1, listen_host = "127.0.0.2" }
    assert.is_true(service:reload().reload.ok)
    assert.matches("127%.0%.0%.2", service:state().url)
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)

  it(("drops no request and loses no job, %d times under load"):format(RELOADS), function()
    service = services.new()
    service:start()
    local clients = load_clients.start(service:port(), "/healthz", { "keep", "fresh", "keep" })
    service.world:customers(60)
    for i = 1, RELOADS do
      assert.equal(i + 1, service:reload().generation)
      for device = i % 10, 60, 10 do
        service.world:query("select queue_ate_generation(device_hash, 'tools') from devices where device_hash = $1",
          { ("D%04d"):format(device) })
      end
    end
    for _, counts in ipairs(clients:stop()) do
      assert.equal(0, counts.failed, counts.problem)
      assert.is_true(counts.answered > 0)
    end
    service.world:await "not exists (select from file_generation_queue where status in ('queued', 'processing'))"
    -- A job that was handed back while a newer one waited has nothing left to do.
    assert.equal(0, service.world:value [[select count(*)::int from file_generation_queue
      where status <> 'completed' and error_code is distinct from 'superseded']])
    local costly = service.world:query "select * from file_generation_queue where retry_count > 0"
    assert.equal(0, #costly, costly[1] and json.encode(costly[1]) .. "\n" .. service:log())
    assert.equal(60, service.world:value "select count(*)::int from ate_files")
    service:stop()
    assert.same({ {}, {} }, { service.world:differences() })
    service.world:check_objects()
  end)

  it("comes by itself with --watch, for a script, a template and the configuration", function()
    service = services.new()
    service:start("serve", "--watch")
    local before = service:state()
    local plans = services.slurp(service.root .. "/lua/plans.lua")
    service:write("lua/plans.lua", plans .. "\n-- changed\n")
    assert.equal(2, service:await_reload(before).generation)
    before = service:state()
    service:write("lua/plans.lua", "return return\n")
    local state = service:await_reload(before)
    assert.equal(2, state.generation)
    assert.matches("lua/plans%.lua:1: ", state.reload.message)
    service:write("lua/plans.lua", plans)
    assert.equal(3, service:await_reload(state).generation)
    before = service:state()
    service:configure { workers = 2 }
    assert.equal(4, service:await_reload(before).generation)
    assert.is_truthy(service:process "worker 2")
    before = service:state()
    service:write("../templates/tools.at/follow.lua", "return 'other'\n")
    assert.equal(5, service:await_reload(before).generation)
    -- A new folder, broken at first: its repair is seen, too.
    before = service:state()
    assert(os.execute(("cd %s/templates && cp -R tools.at .new && echo '{' >.new/template.json && mv .new new.at")
      :format(service.dir)))
    state = service:await_reload(before)
    assert.equal(5, state.generation)
    assert.matches("new%.at: ", state.reload.message)
    local manifest = services.slurp(service.dir .. "/templates/tools.at/template.json"):gsub('"tools"', '"new"')
    service:write("../templates/new.at/template.json", manifest)
    state = service:await_reload(state)
    assert.equal(6, state.generation, state.reload.message)
    service:stop()
  end)

  it("is for the master to make: the signal ends no other process", function()
    service = services.new()
    service:start()
    local names, pids = { "front 1", "worker 1", "keeper" }, {}
    for _, name in ipairs(names) do
      pids[name] = service:process(name).pid
      signal.kill(pids[name], signal.SIGHUP)
    end
    assert.equal(200, service:get("/healthz").status)
    local state = service:state()
    for _, process in ipairs(state.processes) do
      assert.is_true(pids[process.name] == nil or pids[process.name] == process.pid, process.name)
    end
    assert.equal(2, service:reload().generation)
    service:stop()
    assert.is_nil(service:log():find("signal HUP", 1, true))
  end)

  it("is not kept waiting by a look at a script that never ends", function()
    service = services.new()
    service:start()
    local mark = service.dir .. "/asleep"
    local before = service:write("lua/plans.lua", ("io.open(%q, 'w'):write('z'):close()\n"):format(mark)
      .. "while true do require('posix.unistd').sleep(1) end\n")
    signal.kill(service.master.pid, signal.SIGHUP)
    service:await("it began", function() return services.slurp(mark) == "z" end)
    service:write("lua/plans.lua", before)
    signal.kill(service.master.pid, signal.SIGHUP)
    service:await("generation 2", function() return service:state().generation == 2 end)
    assert.matches("the check takes too long, at module plans", service:log(), 1, true)
    service:stop()
  end)

  it("is put off while another one is under way, and not forgotten", function()
    service = services.new()
    service:start()
    for i = 1, 2 do
      signal.kill(service.master.pid, signal.SIGHUP)
      service:await("it began", function() return select(2, service:log():gsub("reload generation", "")) >= math.min(i, 1) end)
    end
    service:await("generation 3", function() return service:state().generation >= 3 end)
    service:stop()
  end)
end)
