local aside = require "workflow.aside"
local clock = require "clock"
local master = require "atelier.master"
local poll = require "posix.poll"
local program = require "spec.support.program"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

describe("workflow.aside", function()
  local function said_by(child)
    local deadline = clock.now() + 60
    repeat
      local said = child:poll()
      if said then
        return said
      end
    until clock.now() > deadline
  end

  it("gives what the function gives", function()
    local child = assert(aside.run(function()
      return { size = 3, name = "x" }
    end))
    assert.same({ value = { size = 3, name = "x" } }, said_by(child))
    assert.same({ value = { size = 3, name = "x" } }, child:poll())
    assert.is_nil(child.pid)
  end)

  it("gives its failure, and what it raises", function()
    assert.same({ message = "too bad", code = "template" }, said_by(assert(aside.run(function()
      return nil, "too bad", "template"
    end))))
    local said = said_by(assert(aside.run(function()
      error "a defect"
    end)))
    assert.matches("a defect", said.message, 1, true)
    assert.equal("internal", said.code)
  end)

  it("runs beside its maker, and is ended by it", function()
    local child = assert(aside.run(function()
      while true do
        unistd.sleep(60)
      end
    end))
    assert.is_nil(child:poll())
    local pid = child.pid
    child:stop()
    assert.equal("io", child:poll().code)
    assert.is_nil((signal.kill(pid, 0)))
    child:stop()
  end)

  it("tells of one that was killed", function()
    local child = assert(aside.run(function()
      unistd.sleep(600)
      return {}
    end))
    signal.kill(child.pid, signal.SIGKILL)
    assert.same({ message = "the process ended, and said nothing", code = "io" }, said_by(child))
  end)

  it("holds nothing of what its maker has open", function()
    local from, to = unistd.pipe()
    local child = assert(aside.run(function()
      unistd.sleep(600)
      return {}
    end))
    unistd.close(to)
    assert.equal("", unistd.read(from, 1), "nobody else can write to it")
    unistd.close(from)
    child:stop()
  end)

  -- What a process of its own gives as its exit code, and then the process.
  local function forked(f)
    local pid = assert(unistd.fork())
    if pid == 0 then
      local ok, code = pcall(f)
      unistd._exit(ok and code or 99)
    end
    return pid
  end

  it("ends with its maker, also where that one is killed", function()
    local dir = program.folder()
    local path = dir .. "/alive"
    assert(stat.mkfifo(path, 384)) -- 0600
    local maker = forked(function()
      local child = assert(aside.run(function()
        local alive <close> = assert(io.open(path, "wb")) -- until it ends, however it does
        alive:write("begun\n"):flush()
        unistd.sleep(600)
        return {}
      end))
      unistd.sleep(600)
      child:stop()
    end)
    local alive <close> = assert(io.open(path, "rb")) -- waits for the one that writes
    assert.equal("begun", alive:read "l")
    signal.kill(maker, signal.SIGKILL)
    wait.wait(maker)
    assert.equal(1, poll.rpoll(require "posix.stdio".fileno(alive), 60000), "it lives on")
    assert.is_nil(alive:read(1))
    program.remove(dir)
  end)

  it("does not begin where its maker has ended before", function()
    local pid = forked(function()
      return master.follow(unistd.getpid()) and 1 or 0 -- nobody is made by himself
    end)
    assert.same({ pid, "exited", 0 }, { wait.wait(pid) })
    local spec = unistd.getpid()
    pid = forked(function()
      return master.follow(spec) and 0 or 1
    end)
    assert.same({ pid, "exited", 0 }, { wait.wait(pid) })
    for _, wrong in ipairs { 0, -1 } do
      assert.error_matches(function() master.follow(wrong) end, "must be a process")
    end
    assert.error_matches(function() master.follow() end, "number expected")
  end)
end)
