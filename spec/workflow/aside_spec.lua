local aside = require "workflow.aside"
local clock = require "clock"
local signal = require "posix.signal"
local unistd = require "posix.unistd"

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
end)
