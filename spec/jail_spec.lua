-- The pool: a warm child for each kit, what replaces it, and the shipped template within it.
local clock = require "clock"
local dirent = require "posix.dirent"
local jail = require "jail"
local kits = require "template.kit"
local native = require "atelier.jail"
local program = require "spec.support.program"
local signal = require "posix.signal"
local template = require "template"

local KIT <const> = { ["m.lua"] = "return { n = 1 }" }

-- Time is generous wherever it is not the limit that is meant: a slow machine must not change a verdict.
local function new_pool(config)
  config = config or {}
  config.jail_time = config.jail_time or 60
  return jail.pool(config)
end

local function pid_of(pool)
  local _, entry = next(pool.children)
  return entry and entry.child:pid()
end

local function descriptors()
  local n = 0
  for _ in dirent.files "/proc/self/fd" do
    n = n + 1
  end
  return n
end

after_each(function()
  collectgarbage()
  collectgarbage()
  assert.equal(0, native.live_handles())
end)

describe("a pool", function()
  it("keeps a kit's child while all is well, and no longer", function()
    local pool <close> = new_pool()
    assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
    local first = pid_of(pool)
    assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
    assert.equal(first, pid_of(pool))
    assert.equal("error", pool:check("k", KIT, { source = "error 'x'" }).verdict)
    assert.is_nil(pid_of(pool))
    assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
    assert.not_equal(first, pid_of(pool))
  end)

  it("runs two jobs of a kit at once, in two children, which it keeps", function()
    local pool <close> = new_pool()
    local first = pool:begin("k", KIT, { source = "print(1)" })
    local second = pool:begin("k", KIT, { source = "print(2)" })
    assert.equal("2\n", pool:finish(second).output)
    assert.equal("1\n", pool:finish(first).output)
    assert.equal(2, #pool.children)
    for _ = 1, 3 do
      assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
    end
    assert.equal(2, #pool.children)
  end)

  it("ends a run that nobody waited for, and no other", function()
    local pool <close> = new_pool()
    local lost = pool:begin("k", KIT, { source = "while true do end" })
    local pid = pid_of(pool)
    assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
    assert.equal(2, #pool.children)
    lost:cancel()
    assert.equal(1, #pool.children)
    assert.not_equal(pid, pid_of(pool))
    pool:begin("k", KIT, { source = "while true do end" }) -- what was to wait for it raised
    collectgarbage()
    collectgarbage()
    assert.equal(0, #pool.children)
    local run = pool:begin("k", KIT, { source = "print(1)" })
    assert.equal("1\n", pool:finish(run).output)
    local other = pool:begin("k", KIT, { source = "print(2)" })
    run:cancel() -- is over: the child runs another one
    assert.equal("2\n", pool:finish(other).output)
  end)

  it("never ends a child that runs to make room", function()
    local pool <close> = new_pool { jail_children = 1 }
    local runs = {}
    for i = 1, 3 do
      runs[i] = pool:begin("k" .. i, KIT, { source = ("print(%d)"):format(i) })
    end
    assert.equal(3, #pool.children)
    for i = 1, 3 do
      assert.equal(i .. "\n", pool:finish(runs[i]).output)
      assert.equal(math.max(1, 3 - i), #pool.children) -- and what is too many goes as soon as it rests
    end
    pool:check("k4", KIT, { source = "" })
    assert.equal(1, #pool.children)
  end)

  it("with jail_fresh gives each run a child of its own", function()
    local pool <close> = new_pool { jail_fresh = true }
    for _ = 1, 3 do
      assert.equal("ok", pool:check("k", KIT, { source = "require 'm'" }).verdict)
      assert.is_nil(pid_of(pool))
    end
  end)

  it("keeps kits apart, and no more of them than it may", function()
    local pool <close> = new_pool { jail_children = 2 }
    for i = 1, 5 do
      local v = pool:check("k" .. i, { ["m.lua"] = "return " .. i }, { source = "print((require 'm'))" })
      assert.equal(i .. "\n", v.output)
      assert(#pool.children <= 2)
    end
    assert(native.live_handles() <= 3)
    assert.equal("4\n", pool:check("k4", { ["m.lua"] = "return 4" }, { source = "print((require 'm'))" }).output)
  end)

  it("replaces a child that was ended between two runs, unseen", function()
    local pool <close> = new_pool()
    assert.equal("ok", pool:check("k", KIT, { source = "" }).verdict)
    local _, entry = next(pool.children)
    for _, child in ipairs { entry.child, pool.spare } do
      signal.kill(child:pid(), signal.SIGKILL)
      local deadline = clock.now() + 60
      repeat until not child:alive() or clock.now() > deadline
    end
    assert.equal("ok", pool:check("k", KIT, { source = "" }).verdict)
  end)

  it("replaces a child after many runs", function()
    local pool <close> = new_pool()
    pool:check("k", KIT, { source = "" })
    local first = pid_of(pool)
    local _, entry = next(pool.children)
    entry.runs = 1000
    pool:check("k", KIT, { source = "" })
    assert.not_equal(first, pid_of(pool))
  end)

  it("tells a kit's own faults as a verdict, and a runtime's as a failure", function()
    local pool <close> = new_pool()
    local v = pool:check("bad", { ["m.lua"] = "\nx =", ["n.lua"] = "(" }, { source = "" })
    assert.equal("syntax", v.verdict)
    assert.equal(2, #v.faults)
    local nothing, message, code = pool:check("k", KIT, { source = "" }, "nothing")
    assert.is_nil(nothing)
    assert.same({ "runtime: there is no runtime 'nothing'", "runtime" }, { message, code })
  end)

  it("takes its limits from the configuration", function()
    local pool <close> = new_pool { jail_memory = 1 << 20, jail_instructions = 5000, jail_output = 10 }
    assert.equal("instructions", pool:check("k", {}, { source = "while true do end" }).verdict)
    assert.equal("memory", pool:check("k", {}, { source = "return ('x'):rep(1 << 21)" }).verdict)
    assert.equal("output", pool:check("k", {}, { source = "print 'more than ten'" }).verdict)
    local pattern = "return (('a'):rep(400)):find(('a-'):rep(12) .. 'b')"
    local short <close> = new_pool { jail_time = 0.2 }
    assert.equal("time", short:check("k", {}, { source = pattern }).verdict)
  end)

  it("leaves no descriptor after hundreds of runs of all kinds", function()
    local before = descriptors()
    do
      local pool <close> = new_pool { jail_instructions = 10000 }
      for i = 1, 200 do
        pool:check("k" .. i % 3, KIT, { source = i % 10 == 0 and "while true do end" or "require 'm'" })
      end
    end
    assert.equal(before, descriptors())
  end)

  it("runs a kit's scripts in one warm child", function()
    local pool <close> = new_pool()
    local first
    for _ = 1, 100 do
      assert.equal("ok", pool:check("k", KIT, { source = "print(require 'm'.n)" }, "autotouch").verdict)
      first = first or pid_of(pool)
      assert.equal(first, pid_of(pool))
    end
  end)

  it("warns when walls are left out", function()
    local script = os.tmpname()
    local file = assert(io.open(script, "w"))
    file:write [[
      local pool <close> = require "jail".pool { jail_without = "seccomp, root", jail_time = 60 }
      print(pool:check("k", {}, { source = "print(1)" }).verdict)
    ]]
    file:close()
    local code, out, err = program.run { "run", script }
    os.remove(script)
    assert.same({ 0, "ok\n" }, { code, out })
    assert(err:find "warn .*walls left out.*seccomp", err)
  end)
end)

describe("the shipped template", function()
  local VALUES <const> = {
    device_hash = "0123abcd", plan = "any", license_key = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE", expires_at = "2099-01-01T00:00:00Z",
  }
  local shipped = assert(template.load "templates/smartgram.at")

  -- What the worker gives the jail: scripts that are the same for all, and those of this device.
  local function bundle(tools)
    local kit = assert(kits.new(shipped, tools))
    local values, shared, own = { plan_tools = tools }, {}, {}
    for name, value in pairs(VALUES) do
      values[name] = value
    end
    for _, entry in ipairs(kit.entries) do
      if entry.name:find "%.lua$" then
        (entry.text and shared or own)[entry.name] = assert(kit:text(entry, values))
      end
    end
    local main = own["main.lua"]
    own["main.lua"] = nil
    return shared, { source = main, modules = own }
  end

  local sets = { {}, {} }
  for _, entry in ipairs(shipped.file_structure) do
    local tool = entry.file:match "^([%w_]+)%.lua$"
    if tool and not entry.required then
      sets[#sets + 1] = { tool }
      table.insert(sets[2], tool)
    end
  end
  for _, tools in ipairs(sets) do
    it("runs with " .. (tools[1] and table.concat(tools, ", ") or "no tool"), function()
      local pool <close> = new_pool()
      local shared, job = bundle(tools)
      local v = assert(pool:check("k", shared, job, "autotouch"))
      assert.equal("ok", v.verdict, ("%s:%s: %s"):format(v.script, v.line, v.message))
      assert(v.calls.getScreenResolution == 1)
    end)
  end
end)
