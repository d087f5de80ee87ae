-- Each wall of the jail alone: what holds with it, and what gets through, or hits the next wall, when it is left out.
local host = require "atelier.host"
local jail = require "atelier.jail"
local program = require "spec.support.program"
local unistd = require "posix.unistd"

local PATTERN <const> = "local _ = (('a'):rep(400)):find(('a-'):rep(12) .. 'b')"

-- Time is generous wherever it is not the limit that is meant: a slow machine must not change a verdict.
local PATIENT <const> = 60

local function run(source, without, limits)
  local options = { time = 0.3, instructions = 2000000, without = without }
  for name, value in pairs(limits or {}) do
    options[name] = value
  end
  local child <close> = assert(jail.new(options))
  child:walls()
  local v = assert(child:run { source = source })
  return v.verdict, v.message
end

after_each(function()
  collectgarbage()
  collectgarbage()
  assert.equal(0, jail.live_handles())
end)

describe("a wall that is left out", function()
  -- What an attack comes to with all walls, and without the named ones. Below "time" is the last one, the parent's timer.
  local attacks = {
    { "hook", "an endless loop", "while true do end", "instructions", { "hook" }, "time" },
    { "hook and alarm", "an endless loop, for the parent's timer", "while true do end", "instructions", { "hook", "alarm" }, "time" },
    { "alarm", "a pattern that never ends, for the parent's timer", PATTERN, "time", { "alarm" }, "time" },
    { "sticky", "a loop that catches each refusal", "for _ = 1, 2 do pcall(function() while true do end end) end x = 1",
      "instructions", { "sticky" }, "error" },
    { "sticky", "a request for memory that is caught", "pcall(string.rep, 'x', 1e9)", "memory", { "sticky" }, "memory" },
    { "handlers and sticky", "a handler that runs within the hook, and so without one",
      "local function f() while true do end end xpcall(f, f)", "instructions", { "handlers", "sticky" }, "time" },
    { "sticky", "the same, with a handler that runs after the error", "local function f() while true do end end xpcall(f, f) f()",
      "instructions", { "sticky" }, "error" },
    { "finalizers", "a finalizer that loops, unseen by hooks",
      "setmetatable({}, { __gc = function() while true do end end }) for _ = 1, 100000 do local _ = {} end",
      "error", { "finalizers" }, "time" },
    { "allocator", "200 MB, for the kernel's limit", "local t = {} for i = 1, 20 do t[i] = ('x'):rep(10000000) .. i end",
      "memory", { "allocator" }, "memory" },
    { "allocator and rlimits", "200 MB, which the machine has", "local t = {} for i = 1, 20 do t[i] = ('x'):rep(10000000) .. i end",
      "memory", { "allocator", "rlimits" }, "ok" },
  }
  -- A build with the address sanitizer has no limit of address space.
  local function is_limited()
    local child <close> = assert(jail.new { time = PATIENT })
    child:walls()
    local file <close> = assert(io.open("/proc/" .. child:pid() .. "/limits"))
    return file:read("a"):find "Max address space%s+%d" ~= nil
  end

  for _, attack in ipairs(attacks) do
    local wall, what, source, with, without, then_ = table.unpack(attack)
    it(wall .. ": " .. what, function()
      local function limits(verdict)
        return { time = verdict == "time" and 0.3 or PATIENT }
      end
      assert.equal(with, (run(source, nil, limits(with))))
      local outcome = (wall ~= "allocator" or is_limited()) and then_ or "ok"
      assert.equal(outcome, (run(source, without, limits(outcome))))
    end)
  end

  it("sticky: a script goes on after its budget is spent", function()
    local source = "pcall(function() while true do end end) print 'still here'"
    local child <close> = assert(jail.new { instructions = 1000000, time = PATIENT, without = { "sticky" } })
    local v = child:run { source = source }
    assert.equal("error", v.verdict)
    assert.equal("", v.output) -- the budget stays spent: the next instruction raises again
  end)

  it("timer: the child's own alarm still ends what no hook interrupts", function()
    assert.equal("time", (run(PATTERN, { "timer" })))
  end)
end)

describe("the kernel's walls", function()
  -- What a script would do that got past Lua. The empty root is a folder that is gone: looking into it gives ESRCH.
  local function probe(what, without)
    local child <close> = assert(jail.new { time = PATIENT, without = without })
    local v = assert(child:probe(what))
    return v.verdict, v.message
  end

  -- Its own user and root are for a jail that root starts.
  local is_root = unistd.geteuid() == 0

  it("fall one by one: a file", function()
    assert.equal("crash", (probe "open"))
    if not is_root then
      return
    end
    assert.same({ "error", "ESRCH" }, { probe("open", { "seccomp", "rlimits" }) })
    assert.same({ "error", "EMFILE" }, { probe("open", { "seccomp", "root" }) })
    assert.equal("ok", (probe("open", { "seccomp", "rlimits", "root" })))
  end)

  it("fall one by one: a new process", function()
    assert.equal("crash", (probe "fork"))
    assert.same({ "error", "EAGAIN" }, { probe("fork", { "seccomp" }) })
  end)

  it("fall one by one: a signal to the parent", function()
    assert.equal("crash", (probe "signal"))
    if not is_root then
      return
    end
    assert.same({ "error", "EPERM" }, { probe("signal", { "seccomp" }) })
  end)

  it("fall one by one: a file that is left behind", function()
    assert.equal("crash", (probe "create"))
    if not is_root then
      return
    end
    assert.same({ "error", "ESRCH" }, { probe("create", { "seccomp", "rlimits", "uid" }) })
  end)

end)

describe("a kernel without seccomp", function()
  local folder, bare

  setup(function()
    folder = program.folder()
    local code, _, err = program.shell(("cc -o %s/no_seccomp spec/support/no_seccomp.c -lseccomp"):format(folder))
    assert.equal(0, code, err)
    bare = function(words)
      return program.shell(("%s/no_seccomp %s %s"):format(folder, host.exe, words))
    end
    local file <close> = assert(io.open(folder .. "/s.lua", "w"))
    file:write "print 'ran'"
    local conf <close> = assert(io.open(folder .. "/conf.lua", "w"))
    conf:write "return { jail_without = 'seccomp', jail_time = 60 }"
  end)

  teardown(function()
    program.remove(folder)
  end)

  it("has no jail", function()
    local code, out, err = bare(("jail %s/s.lua"):format(folder))
    assert.equal(1, code)
    assert.equal("", out)
    assert(err:find("this system gives no seccomp; the jail is not safe without", 1, true), err)
  end)

  it("has a weaker one where the operator says so", function()
    local code, out, err = program.shell(("ATELIER_CONFIG=%s/conf.lua %s/no_seccomp %s jail %s/s.lua"):format(
      folder, folder, host.exe, folder))
    assert.equal(0, code, err)
    assert(out:find "^ran\n")
    assert(err:find "without.*seccomp", err)
  end)
end)
