-- What dies comes back; what hangs is replaced; what has lost its master ends.
local clock = require "clock"
local load_clients = require "spec.daemon.support.load"
local services = require "spec.daemon.support.service"
local signal = require "posix.signal"
local tcp = require "spec.support.tcp"
local worlds = require "spec.workflow.support.world"

local ALL_DONE = "not exists (select from file_generation_queue where status in ('queued', 'processing'))"

describe("a service", function()
  local service

  after_each(services.close_all)

  it("runs under its titles, one process group each, and nothing of it is left at the end", function()
    service = services.new { config = { fronts = 2, workers = 2 } }
    service:start()
    -- A worker's child still has its parent's title until it becomes the jail.
    local expected = "front 1, front 2, keeper, master, worker 1, worker 2"
    service:await(expected, function()
      local titles = {}
      for _, title in pairs(service:processes()) do titles[#titles + 1] = title:gsub("^atelier: ", "") end
      table.sort(titles)
      return table.concat(titles, ", ") == expected
    end)
    local name = services.slurp(("/proc/%d/comm"):format(service:process("front 1").pid))
    assert.equal("atelier\n", name)
    for line in service:log():gmatch "[^\n]+" do
      assert.matches("^%d%d%d%d%-%S+ %a+ %a+[ %d]*: ", line)
    end
    service:stop()
    assert.is_nil(service:state())
  end)

  it("starts each process again that is killed", function()
    service = services.new()
    service:start()
    for _, name in ipairs { "front 1", "worker 1", "keeper" } do
      local pid = service:process(name).pid
      signal.kill(pid, signal.SIGKILL)
      local p = service:await_another(name, pid)
      assert.equal(1, p.restarts)
      assert.equal(1, p.generation)
    end
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)

  it("has a killed worker's jobs done by the next one, with one worker alone", function()
    service = services.new()
    local world = service.world
    service:start()
    local let_go = world:hold_completions()
    world:customers(20)
    world:await(worlds.HELD)
    local worker = service:process "worker 1"
    signal.kill(worker.pid, signal.SIGKILL)
    service:await_another("worker 1", worker.pid)
    let_go()
    world:await(ALL_DONE)
    assert.equal(20, world:value "select count(*)::int from file_generation_queue where status = 'completed'")
    assert.is_true(world:value "select max(retry_count) from file_generation_queue" <= 1)
    service:stop()
    world:check_objects()
  end)

  it("answers while one of two fronts is killed: the socket is the master's", function()
    service = services.new { config = { fronts = 2 } }
    service:start()
    local clients = load_clients.start(service:port(), "/healthz", { "fresh" })
    local one, two = service:process("front 1").pid, service:process("front 2").pid
    signal.kill(one, signal.SIGKILL)
    service:await_another("front 1", one)
    signal.kill(two, signal.SIGKILL)
    service:await_another("front 2", two)
    local counts = clients:stop()[1]
    -- What a killed front had accepted is lost with it; nobody is refused.
    assert.is_nil((counts.problem or ""):match "connect: ")
    assert.is_true(counts.answered > 0)
    assert.equal(200, service:get("/healthz").status)
    service:stop()
  end)

  it("leaves no process behind when the master is killed, and a new master has the port at once", function()
    local first = services.port()
    service = services.new { config = { listen_port = first } }
    service:start()
    local front = service:process("front 1").pid
    signal.kill(front, signal.SIGSTOP) -- and would keep the socket for ever
    service.master.kill(signal.SIGKILL)
    service.master.wait()
    service:start()
    assert.equal(first, service:port())
    assert.equal(200, service:get("/healthz").status)
    service:await("the former processes are gone", function()
      local count = 0
      for _ in pairs(service:processes()) do count = count + 1 end
      return count == 4
    end)
    service.master.kill(signal.SIGKILL)
    service.master.wait()
    service:await_silence()
  end)

  it("hands back what a worker has not built when the master is killed", function()
    service = services.new()
    local world = service.world
    service:start()
    local let_go = world:hold_completions()
    world:customers(20)
    world:await(worlds.HELD)
    service.master.kill(signal.SIGKILL)
    service.master.wait()
    let_go()
    service:await_silence()
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    assert.equal(0, world:value "select count(*)::int from file_generation_queue where status = 'processing'")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("replaces a process that is silent", function()
    service = services.new { config = { database_timeout = 5, watchdog = 5 } }
    service:start()
    for _, name in ipairs { "front 1", "worker 1" } do
      local pid = service:process(name).pid
      signal.kill(pid, signal.SIGSTOP)
      local p = service:await_another(name, pid)
      assert.equal("was silent for too long", p.last_end)
    end
    assert.matches("process silent, killed", service:log())
    service:stop()
  end)

  -- How often a process has waited for something (proc(5)).
  local function waits(pid)
    return tonumber(services.slurp(("/proc/%d/status"):format(pid)):match "\nvoluntary_ctxt_switches:%s*(%d+)")
  end

  it("takes nobody for silent after a pause of the whole", function()
    service = services.new { config = { database_timeout = 5, watchdog = 5 } }
    service:start()
    local before, master, pids = service:processes(), service.master.pid, {}
    for _, name in ipairs { "front 1", "worker 1", "keeper" } do pids[name] = service:process(name).pid end
    for pid in pairs(before) do signal.kill(pid, signal.SIGSTOP) end
    local stopped_at = clock.now()
    repeat until clock.now() - stopped_at > 6 -- longer than a front may be silent
    local had_waited = waits(master)
    signal.kill(master, signal.SIGCONT)
    service:await("the master looks around", function() return waits(master) > had_waited end)
    for pid in pairs(before) do signal.kill(pid, signal.SIGCONT) end
    assert.equal(200, service:get("/healthz").status)
    service.world:customers(3)
    service.world:await(ALL_DONE)
    for name, pid in pairs(pids) do assert.equal(pid, service:process(name).pid) end
    assert.is_nil(service:log():find("silent", 1, true))
    service:stop()
  end)

  it("kills what does not end in time when told to stop", function()
    service = services.new { config = { drain_time = 0.5 } }
    service:start()
    local clients = services.slurp(("/proc/%d/comm"):format(service:process("keeper").pid))
    assert.equal("atelier\n", clients)
    local let_go = service.world:hold_completions()
    service.world:customers(3)
    service.world:await(worlds.HELD)
    service.master.kill(signal.SIGTERM)
    local code = service.master.wait()
    let_go()
    assert.equal(0, code)
    -- By the master; where that came to it too late, by the worker's own alarm.
    local log = service:log()
    assert.is_truthy(log:find "process did not end in time, killed .*process=worker 1"
      or log:find "process ended badly .*process=worker 1 .*ALRM", log)
    service:await_silence()
  end)

  it("does not wait when told to stop twice", function()
    service = services.new { config = { drain_time = 3600 } }
    service:start()
    local let_go = service.world:hold_completions()
    service.world:customers(3)
    service.world:await(worlds.HELD)
    local began, place = clock.now(), tonumber(service:state().url:match ":(%d+)$")
    service.master.kill(signal.SIGTERM)
    service:await("it drains", function() return service:log():find("told to stop", 1, true) end)
    -- Who comes now is refused, and does not wait for the drain only to be cut off.
    service:await("nobody is let in", function() return not pcall(tcp.connect, place) end)
    service.master.kill(signal.SIGINT)
    assert.equal(0, (service.master.wait()))
    assert.is_true(clock.now() - began < 1800)
    let_go()
    service:await_silence()
  end)

  it("gives up loudly when a process dies again and again", function()
    service = services.new()
    service:start()
    service:write("lua/daemon/keeper.lua", "local M = {}\nfunction M.main()\n  error 'no keys'\nend\nreturn M\n")
    signal.kill(service:process("keeper").pid, signal.SIGKILL)
    assert.equal(1, (service.master.wait()))
    assert.matches("service gives up.*keeper.*keeper%.lua:3: no keys", service:log())
    service:await_silence()
  end)
end)
