-- atelier.jail: children, verdicts, limits, siblings, preludes; what a child leaves. Hostile scripts: jail_corpus_spec.
local clock = require "clock"
local dirent = require "posix.dirent"
local host = require "atelier.host"
local jail = require "atelier.jail"
local oom = require "oom"
local signal = require "posix.signal"
local unistd = require "posix.unistd"

local MIB <const> = 1024 * 1024
local PATTERN <const> = "local _ = (('a'):rep(400)):find(('a-'):rep(12) .. 'b')"

-- Time is generous wherever it is not the limit that is meant: a slow machine must not change a verdict.
local function new(limits)
  local options = { time = 60 }
  for name, value in pairs(limits or {}) do
    options[name] = value
  end
  return assert(jail.new(options))
end

local function run(source, limits, more)
  local child <close> = new(limits)
  local job = { source = source }
  for name, value in pairs(more or {}) do
    job[name] = value
  end
  return assert(child:run(job))
end

local function printed(source, more)
  local v = run(source, nil, more)
  assert.equal("ok", v.verdict, v.message)
  return v.output
end

local function descriptors()
  local names = {}
  for name in dirent.files "/proc/self/fd" do
    names[#names + 1] = name
  end
  table.sort(names)
  return table.concat(names, " ")
end

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  return text
end

-- Children of this process, living or not reaped.
local function children()
  local me, found = unistd.getpid(), {}
  for name in dirent.files "/proc" do
    local text = name:find "^%d+$" and read("/proc/" .. name .. "/stat")
    if text and tonumber(text:match "%) %a (%d+)") == me then
      found[#found + 1] = name
    end
  end
  return #found
end

local function wait_until(what, f)
  local deadline = clock.now() + 60
  while not f() do
    assert(clock.now() < deadline, "waited in vain until " .. what)
    unistd.close(unistd.dup(0)) -- a system call, to let others run
  end
end

after_each(function()
  collectgarbage()
  collectgarbage()
  assert.equal(0, jail.live_handles())
end)

describe("a verdict", function()
  it("is ok, with what was printed and what it took", function()
    local v = run "print('hello', 1, nil)"
    assert.same({ "ok", "", "hello\t1\tnil\n" }, { v.verdict, v.message, v.output })
    assert.equal(12, v.usage.output_bytes)
    assert(v.usage.instructions > 0 and v.usage.memory > 0 and v.usage.time_ms > 0)
  end)

  local cases = {
    { "error", 2, "attempt to perform arithmetic on a nil value", "local x =\nnil + 1" },
    { "syntax", 3, "unexpected symbol near '='", "\n\nx = = 1" },
    { "instructions", 2, "more instructions than the limit allows", "\nwhile true do end" },
    { "memory", 2, "more memory than the limit allows", "local t = {}\nwhile true do t[#t + 1] = {} end" },
    { "time", 2, "more time than the limit allows", "\n" .. PATTERN },
    { "output", 1, "more output than the limit allows", "while true do print('flood') end" },
  }
  for _, case in ipairs(cases) do
    it("is " .. case[1] .. ", with the line", function()
      local v
      -- The parent's timer knows no line. The child's own is first, unless the machine lets it wait for 0.3 s and more.
      for _, time in ipairs(case[1] == "time" and { 0.2, 1, 5, 25 } or { 60 }) do
        v = run(case[4], { time = time })
        if v.line then
          break
        end
      end
      assert.same({ case[1], case[2], case[3], "main.lua" }, { v.verdict, v.line, v.message, v.script })
    end)
  end

  it("is crash when the child is killed, and the next child runs", function()
    local child <close> = new()
    local v = assert(child:probe "crash")
    assert.equal("crash", v.verdict)
    assert.equal("ok", run("return 1").verdict)
  end)

  -- As the kernel does when memory is short.
  it("is none when somebody else killed the child, between runs or in one", function()
    local child <close> = new()
    assert.equal("ok", child:run({ source = "" }).verdict)
    signal.kill(child:pid(), signal.SIGKILL)
    local function assert_killed(v, message, code)
      assert.is_nil(v)
      assert.equal("run jail: the child was killed by somebody else (signal 9)", message)
      assert.equal("killed", code)
    end
    assert_killed(child:run { source = "print(1)" })
    assert.is_false(child:alive())

    local loading <close> = new()
    loading:walls()
    signal.kill(loading:pid(), signal.SIGKILL)
    assert_killed(loading:load { modules = { ["a.lua"] = "return 1" } })

    local running <close> = new { instructions = 1 << 50, time = 600 }
    assert.is_true(running:begin { source = "while true do end" })
    signal.kill(running:pid(), signal.SIGKILL)
    assert_killed(running:finish())
  end)

  it("is crash when the child ends by any other signal, and time when its parent kills it", function()
    local child <close> = new { instructions = 1 << 50, time = 600 }
    assert.is_true(child:begin { source = "while true do end" })
    signal.kill(child:pid(), signal.SIGSYS)
    local v = assert(child:finish())
    assert.equal("crash", v.verdict)
    local stopped <close> = new { instructions = 1 << 50, time = 0.1 }
    assert.is_true(stopped:begin { source = "while true do end" })
    signal.kill(stopped:pid(), signal.SIGSTOP)
    assert.equal("time", stopped:finish().verdict)
  end)

  it("is not changed by signals that are meant for its parent, as of a Control-C", function()
    local child <close> = new()
    child:walls()
    for _, number in ipairs { signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT } do
      assert(signal.kill(child:pid(), number))
      assert.equal("ok", child:run({ source = "" }).verdict)
    end
    assert.is_true(child:alive())
  end)

  it("is time when the child is stopped from outside: the parent's timer is the wall", function()
    local child <close> = new { time = 0.2 }
    child:walls()
    signal.kill(child:pid(), signal.SIGSTOP)
    assert.equal("time", child:run({ source = "" }).verdict)
  end)

  it("is not time for an alarm that comes before its own, as that of the run before may", function()
    local child <close> = new { instructions = 1 << 50, time = 600 }
    child:walls()
    local function ticks() -- of processor time
      return tonumber(read(("/proc/%d/stat"):format(child:pid())):match("%) %a" .. (" %-?%d+"):rep(10) .. " (%d+)"))
    end
    local before, deadline = ticks(), os.time() + 60
    assert.is_true(child:begin { source = "for i = 1, 1 << 24 do end print 'done'" })
    repeat until ticks() >= before + 2 or os.time() > deadline -- now it is in its loop
    assert(signal.kill(child:pid(), signal.SIGALRM))
    local v = assert(child:finish())
    assert.equal("ok", v.verdict, v.message)
    assert.equal("done\n", v.output)
  end)

  it("waits no longer for a child that does not read", function()
    local child <close> = new { time = 0.2 }
    child:walls()
    signal.kill(child:pid(), signal.SIGSTOP)
    local source = "--" .. ("x"):rep(30 * MIB)
    assert.equal("time", child:run({ source = source }).verdict)
  end)

  it("is memory for a text that is larger than memory, at once", function()
    assert.equal("memory", run("--" .. ("x"):rep(2 * MIB), { memory = MIB }).verdict)
    assert.equal("memory", run("return 1", { memory = 1000 }).verdict)
  end)

  it("does not take bytecode, behind whatever it hides", function()
    local code = string.dump(load "return 1")
    for _, head in ipairs { "", "#!lua\n", "\xef\xbb\xbf", "\xef\xbb\xbf#x\n" } do
      assert.equal("syntax", run(head .. code).verdict)
    end
    assert.equal("3\n", printed "\xef\xbb\xbf#!/bin/lua\nprint(3)")
    assert.equal(2, run("#!/bin/lua\nlocal x = nil + 1").line)
  end)

  it("is plain text: UTF-8 without controls", function()
    local v = run "print('\\27[2J\\255\\0caf\u{e9} \\xc2\\x9b \\xed\\xa0\\x80') error('\\x80\\27x\\n\\ty')"
    assert.equal("\\x1b[2J\\xff\\x00café \\xc2\\x9b \\xed\\xa0\\x80\n", v.output)
    assert.equal("\\x80\\x1bx\n\ty", v.message)
  end)

  it("cuts a message, and keeps no part of a place that is not known", function()
    local v = run "error(('x'):rep(100000))"
    assert(#v.message <= 2048)
    v = run("error('elsewhere.lua:7: no', 0)")
    assert.same({ 1, "main.lua", "elsewhere.lua:7: no" }, { v.line, v.script, v.message })
  end)

  it("names scripts with long names", function()
    local name = ("d/"):rep(100) .. "long.lua"
    local v = run("\nerror 'x'", nil, { name = name })
    assert.same({ name, 2, "x" }, { v.script, v.line, v.message })
    assert.equal(3, run("\n\nx = =", nil, { name = name }).line)
  end)
end)

describe("xpcall", function()
  it("hands its handler what the handler raises, as Lua's own does, and gives up in the end", function()
    assert.equal("false\tthird: second\t3\n", printed [[
      local n = 0
      local function handler(m)
        n = n + 1
        if n < 3 then error(n == 1 and "first" or "second", 0) end
        return "third: " .. m
      end
      local ok, message = xpcall(error, handler, "it")
      print(ok, message, n)
    ]])
    for _, handler in ipairs { "error 'again'", "error {}", "error()", "return nil + 1" } do
      assert.equal("false\terror in error handling\n", printed(("print(xpcall(error, function() %s end, 'it'))"):format(handler)))
    end
  end)

  it("counts what a handler does, however often", function()
    local v = run("local function f() while true do end end xpcall(error, f)", { instructions = 100000 })
    assert.equal("instructions", v.verdict)
    v = run("local function f() for _ = 1, 10000 do end error 'x' end xpcall(error, f)", { instructions = 1000000 })
    assert.equal("instructions", v.verdict)
  end)
end)

describe("a run that is begun", function()
  it("goes on while we do other things, and is finished once", function()
    local child <close> = new()
    for i = 1, 3 do
      assert.is_true(child:begin { source = "print(" .. i .. ")" })
      local v = assert(child:finish())
      assert.equal("ok", v.verdict)
      assert.equal(i .. "\n", v.output)
      assert.error_matches(function() child:finish() end, "runs no script")
    end
  end)

  it("allows nothing else meanwhile", function()
    local child <close> = new()
    assert.is_true(child:begin { source = "return 1" })
    for _, call in ipairs { "begin", "run" } do
      assert.error_matches(function() child[call](child, { source = "" }) end, "finish that first")
    end
    assert.error_matches(function() child:load { modules = {} } end, "finish that first")
    assert.error_matches(function() child:probe "open" end, "finish that first")
    assert.equal("ok", child:finish().verdict)
    assert.equal("ok", child:run({ source = "" }).verdict)
  end)

  it("has its time from then on, whenever it is finished", function()
    local child <close> = new { time = 0.1 }
    assert.is_true(child:begin { source = PATTERN })
    wait_until("the child has ended", function() return not child:alive() end)
    assert.equal("time", child:finish().verdict)
    -- What was done within the limit counts, though nobody looks before it is over. A slow machine needs a longer one.
    local verdict
    for _, time in ipairs { 0.1, 1, 10, 30 } do
      local late <close> = new { time = time }
      assert.is_true(late:begin { source = "print 'done'" })
      local began = clock.now()
      wait_until("the limit is over", function() return clock.now() - began > time + 0.5 end)
      verdict = late:finish().verdict
      if verdict == "ok" then
        break
      end
    end
    assert.equal("ok", verdict)
  end)

  it("may be closed", function()
    local child = new()
    assert.is_true(child:begin { source = "while true do end" })
    child:close()
    assert.error_matches(function() child:finish() end, "jail is closed")
    assert.equal(0, children())
  end)
end)

describe("limits", function()
  it("count across coroutines, calls and callbacks", function()
    local v = run("for _ = 1, 1000 do coroutine.wrap(function() end)() end", { instructions = 1000000 })
    assert.equal("instructions", v.verdict)
    assert(v.usage.instructions <= 1002000)
  end)

  it("let through what stays below", function()
    local v = run("for _ = 1, 900000 do end", { instructions = 1000000 })
    assert.equal("ok", v.verdict)
    assert(v.usage.instructions > 800000 and v.usage.instructions <= 1000000)
  end)

  it("count memory as Lua asks for it, and forget garbage", function()
    local v = run("local s = ('x'):rep(5000000)", { memory = 16 * MIB })
    assert.equal("ok", v.verdict)
    assert(v.usage.memory > 5000000 and v.usage.memory <= 16 * MIB)
    v = run("for i = 1, 100000 do local _ = {} end collect = 1", { memory = MIB })
    assert.equal("ok", v.verdict)
    assert(v.usage.memory < MIB)
  end)

  it("keep the account right over many tables", function()
    local child <close> = new()
    local first = child:run { source = "for i = 1, 100000 do local _ = {} end" }
    local second = child:run { source = "for i = 1, 100000 do local _ = {} end" }
    assert.equal(first.usage.memory, second.usage.memory)
    assert(first.usage.memory < 2 * MIB)
  end)

  it("keep what was printed when it was too much", function()
    local v = run("print(('x'):rep(200))", { output = 100 })
    assert.same({ "output", ("x"):rep(100), 100 }, { v.verdict, v.output, v.usage.output_bytes })
  end)

  it("move the kernel's limit of processor time along with the runs", function()
    local child <close> = new { instructions = 1 << 40 }
    local function limit()
      return tonumber(read("/proc/" .. child:pid() .. "/limits"):match "Max cpu time%s+(%d+)")
    end
    assert.equal("ok", child:run({ source = "" }).verdict)
    local first = limit()
    assert(first >= 60)
    local source = "local stop = os.clock() + 0.2 while os.clock() < stop do end"
    for _ = 1, 12 do
      assert.equal("ok", child:run({ source = source }).verdict)
    end
    assert(limit() >= first + 2, limit()) -- as 2.2 s are used up
  end)
end)

describe("siblings", function()
  local modules = {
    ["a.lua"] = "print('a', ...) return { name = 'a' }", ["lib/b.lua"] = "return ...", ["none.lua"] = "count = (count or 0) + 1",
  }

  it("are found by require and dofile, once and each time", function()
    local source = "local m, file = require 'a' print(m.name, file, require 'a' == m)"
    assert.equal("a\ta\ta.lua\na\ta.lua\ttrue\n", printed(source, { modules = modules }))
    assert.equal("lib.b\n", printed("print((require 'lib.b'))", { modules = modules }))
    assert.equal("lib/b\n", printed("print((require 'lib/b'))", { modules = modules }))
    assert.equal("true\t1\n", printed("require 'none' print((require 'none'), count)", { modules = modules }))
    assert.equal("2\n", printed("dofile 'none.lua' dofile './none.lua' print(count)", { modules = modules }))
  end)

  it("that are libraries are the libraries", function()
    assert.equal("true\n", printed "print(require 'string' == string and require '_G' == _G)")
  end)

  it("that are missing are named, with those that are there", function()
    local v = run("\nrequire 'c'", nil, { modules = modules })
    assert.equal(2, v.line)
    assert(v.message:find("require: no script 'c' here; there are: ", 1, true), v.message)
    assert(v.message:find("a.lua", 1, true) and v.message:find("lib/b.lua", 1, true))
    assert.equal("dofile: no script 'x' here; there are: none", run("dofile 'x'").message)
  end)

  it("may not require each other in a circle", function()
    local v = run("require 'x'", nil, { modules = { ["x.lua"] = "\nrequire 'y'", ["y.lua"] = "require 'z'", ["z.lua"] = "require 'x'" } })
    assert.equal("require: scripts require each other: x.lua -> y.lua -> z.lua -> x.lua", v.message)
    assert.same({ "z.lua", 1 }, { v.script, v.line })
    v = run("require 'x'", nil, { modules = { ["x.lua"] = "require 'x'" } })
    assert.equal("require: scripts require each other: x.lua -> x.lua", v.message)
    -- By its whole name, too: what marks a script as being loaded is not its value.
    for _, how in ipairs { "require 'x.lua'", "return require 'x.lua'", "return (require 'x.lua')" } do
      v = run("require 'x'", nil, { modules = { ["x.lua"] = how } })
      assert.equal("require: scripts require each other: x.lua -> x.lua", v.message)
    end
    v = run("coroutine.wrap(require)('x')", nil, { modules = { ["x.lua"] = "coroutine.wrap(require)('x')" } })
    assert.equal("error", v.verdict)
  end)

  it("have no NUL in their names", function()
    for _, call in ipairs { "require 'a\\0b'", "dofile 'a.lua\\0b'" } do
      local v = run(call, nil, { modules = modules })
      assert.equal("error", v.verdict)
      assert.matches("no NUL in it", v.message)
    end
  end)

  it("that failed may be asked for again", function()
    local more = { modules = { ["x.lua"] = "n = (n or 0) + 1 if n == 1 then error 'first' end return n" } }
    assert.equal("false\t2\tx.lua\n", printed("print((pcall(require, 'x')), select(2, pcall(require, 'x')))", more))
  end)

  it("give their own place", function()
    local v = run("require 'm'", nil, { modules = { ["m.lua"] = "\n\nlocal x = y.z" } })
    assert.same({ "error", "m.lua", 3 }, { v.verdict, v.script, v.line })
  end)

  it("must not be nested too deeply, also when nobody asks for them", function()
    local deep = { ["m.lua"] = "return " .. ("("):rep(300) .. "1" .. (")"):rep(300), ["n.lua"] = "return 1" }
    local v = run("return 1", nil, { modules = deep })
    assert.same({ "syntax", "m.lua", "C stack overflow" }, { v.verdict, v.script, v.message })
    local child <close> = new()
    v = child:load { modules = deep }
    assert.same({ "syntax", "m.lua", "C stack overflow" }, { v.verdict, v.script, v.message })
    assert.equal(1, v.line)
    v = run(deep["m.lua"])
    assert.same({ "syntax", "main.lua", 1 }, { v.verdict, v.script, v.line })
    v = run("#!/bin/lua\nlocal x = 1\r\n\n--[[\n]] return " .. ("("):rep(150) .. "\n" .. ("("):rep(150) .. "\n1")
    assert.same({ "syntax", 6, "C stack overflow" }, { v.verdict, v.line, v.message })
  end)

  it("must be Lua, all of them, also when nobody asks for them", function()
    local broken = { ["m.lua"] = "x =", ["n.lua"] = "return 1", ["o.lua"] = "\n)" }
    local v = run("y = (", nil, { modules = broken })
    assert.same({ "syntax", "main.lua" }, { v.verdict, v.script })
    local places = {}
    for i, fault in ipairs(v.faults) do
      places[i] = fault.script .. ":" .. fault.line
    end
    table.sort(places)
    assert.same({ "m.lua:1", "main.lua:1", "o.lua:2" }, places)
    assert.equal("syntax", run("pcall(require, 'm')", nil, { modules = { ["m.lua"] = "x =" } }).verdict)
    assert.equal("ok", run("return 1", nil, { modules = broken, check = false }).verdict)
  end)

  it("of a kit are parsed once, and each run finds them new", function()
    local child <close> = new()
    assert.equal("ok", child:load({ modules = { ["m.lua"] = "state = (state or 0) + 1\nreturn { n = state }" } }).verdict)
    for _ = 1, 3 do
      local v = child:run { source = "local m = require 'm' m.n = m.n + 1 print(m.n, state)" }
      assert.equal("2\t1\n", v.output)
    end
    local v = child:run { source = "require 'm'\nerror 'x'" }
    assert.equal(2, v.line)
  end)

  it("of a kit that are not Lua are told at once, all", function()
    local child <close> = new()
    local v = child:load { modules = { ["a.lua"] = "x =", ["b.lua"] = "return 1", ["c.lua"] = "\n\n)" } }
    assert.equal("syntax", v.verdict)
    assert.equal(2, #v.faults)
    assert.is_false(child:alive())
  end)

  it("may be ten thousand", function()
    local many = {}
    for i = 1, 10000 do
      many["m" .. i .. ".lua"] = "return " .. i
    end
    assert.equal("777\n", printed("print((require 'm777'))", { modules = many, check = false }))
    many["one more.lua"] = ""
    local child <close> = new()
    assert.error_matches(function() child:run { source = "", modules = many } end, "too many modules")
  end)
end)

describe("a prelude", function()
  local function with(prelude, source, limits)
    local child <close> = new(limits)
    local v = assert(child:load { prelude = prelude, name = "app" })
    if v.verdict ~= "ok" then
      return v
    end
    return assert(child:run { source = source })
  end

  it("defines functions whose calls are counted", function()
    local prelude = "local app = ... app.define('size', 3, 4) app.define('none') app.define('twice', function(n) return n * 2 end)"
    local v = with(prelude, "print(size()) print(twice(4), (none()), twice(1))")
    assert.equal("3\t4\n8\tnil\t2\n", v.output)
    assert.same({ size = 1, twice = 2, none = 1 }, v.calls)
  end)

  it("makes unknown globals errors, but not assigned ones", function()
    local v = with("local app = ... known = 1 app.strict()", "x = known\ny = nil\nassert(y == nil)\nprint(unheard)")
    assert.same({ "error", 4, "unknown global 'unheard'" }, { v.verdict, v.line, v.message })
  end)

  it("blames the script's line for what goes wrong within it", function()
    local v = with("local app = ...\napp.define('f', function() error('no', 2) end)", "\n\nf()")
    assert.same({ "error", "main.lua", 3 }, { v.verdict, v.script, v.line })
  end)

  it("that is broken is told when it is loaded", function()
    assert.same({ "syntax", 2 }, (function(v) return { v.verdict, v.line } end)(with("\nx = =", "")))
    local v = with("\n\nnothing.x = 1", "")
    assert.same({ "error", "app", 3 }, { v.verdict, v.script, v.line })
    assert.equal("instructions", with("while true do end", "", { instructions = 1000000 }).verdict)
  end)

  it("knows the application's folder", function()
    local child <close> = new()
    child:load { prelude = "(...).folder('/scripts')", modules = { ["m.lua"] = "return 7" } }
    assert.equal("7\t7\n", child:run({ source = "print(dofile '/scripts/x/m.lua', dofile 'm.lua')" }).output)
  end)
end)

describe("runs of one child", function()
  it("know nothing of each other", function()
    local child <close> = new()
    assert.equal("ok", child:run({ source = "secret = 'a' string.x = 1 getmetatable('').y = 1 print(math.random(99))" }).verdict)
    local v = child:run { source = "print(secret, string.x, getmetatable('').y)" }
    assert.equal("nil\tnil\tnil\n", v.output)
  end)

  it("end with the first verdict that is not ok", function()
    local child <close> = new()
    assert.equal("error", child:run({ source = "error 'x'" }).verdict)
    assert.error_matches(function() child:run { source = "" } end, "jail is closed")
  end)
end)

describe("hundreds of runs", function()
  it("leave no child, no descriptor", function()
    local before, count = descriptors(), children()
    for i = 1, 60 do
      run(({ "return 1", "error 'x'", "while true do end", "x = =", "print(('x'):rep(99999))" })[i % 5 + 1], { instructions = 10000 })
    end
    do
      local child <close> = new()
      for _ = 1, 500 do
        assert.equal("ok", child:run({ source = "print(1)" }).verdict)
      end
    end
    for _ = 1, 20 do
      jail.new() -- dropped before it has greeted
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, descriptors())
    assert.equal(count, children())
  end)
end)

describe("a parent that is killed", function()
  it("takes its children along, idle or busy", function()
    local script = os.tmpname()
    local file = assert(io.open(script, "w"))
    file:write [[
      local jail = require "atelier.jail"
      local idle, busy = assert(jail.new()), assert(jail.new { time = 60, instructions = 1 << 60 })
      idle:walls() busy:walls()
      io.write(idle:pid(), " ", busy:pid(), "\n") io.flush()
      busy:run { source = "while true do end" }
    ]]
    file:close()
    local pipe = assert(io.popen(("echo $$; exec %s run %s"):format(host.exe, script)))
    local parent = tonumber(pipe:read "l")
    local idle, busy = pipe:read("l"):match "(%d+) (%d+)"
    signal.kill(parent, signal.SIGKILL)
    for _, pid in ipairs { idle, busy } do
      wait_until("child " .. pid .. " ended", function()
        local status = read("/proc/" .. pid .. "/stat")
        return not status or status:match "%) (%a)" == "Z" or not status:find("atelier", 1, true)
      end)
    end
    pipe:close()
    os.remove(script)
  end)
end)

describe("a child's surroundings", function()
  it("hold nothing: one descriptor, no environment, an empty root, its own user", function()
    local child <close> = new()
    local walls = assert(child:walls())
    assert(walls.seccomp and walls.rlimits)
    local base = "/proc/" .. child:pid() .. "/"
    local status = read(base .. "status")
    assert.equal("1", status:match "NoNewPrivs:%s*(%d+)")
    assert.equal("2", status:match "Seccomp:%s*(%d+)")
    assert.equal("atelier: jail\0", read(base .. "cmdline"))
    assert(not (read(base .. "environ") or ""):find "[^%z]")
    local limits = read(base .. "limits")
    for _, name in ipairs { "Max file size", "Max core file size", "Max processes" } do
      assert.equal("0", limits:match(name .. "%s+(%d+)"), name)
    end
    assert.equal("1", limits:match "Max open files%s+(%d+)")
    if unistd.geteuid() == 0 then
      assert(walls.uid and walls.root)
      local uid = status:match "Uid:%s*(%d+)"
      assert(tonumber(uid) > 1000)
      assert.equal("", status:match "Groups:[ \t]*(%d*)")
      local fds = {}
      for name in dirent.files(base .. "fd") do
        fds[#fds + 1] = name:find "%d" and name or nil
      end
      assert.same({ "0" }, fds)
      local second <close> = new()
      assert(second:walls())
      assert.not_equal(uid, read("/proc/" .. second:pid() .. "/status"):match "Uid:%s*(%d+)")
    end
  end)

  it("are the same when this process has no standard input", function()
    local code = os.execute(host.exe .. " jail /dev/null <&- >/dev/null 2>&1")
    assert(not code) -- /dev/null is no regular file
    local name = os.tmpname()
    assert(os.execute(("%s jail --time 60s %s <&- >/dev/null"):format(host.exe, name)))
    os.remove(name)
  end)

  local forbidden = { "open", "create", "socket", "fork", "signal", "execute", "descriptor", "chdir" }
  for _, what in ipairs(forbidden) do
    it("do not allow to " .. what, function()
      local child <close> = new()
      local v = assert(child:probe(what))
      assert.same({ "crash", "the jail's child was killed: a forbidden system call" }, { v.verdict, v.message })
    end)

    it("do not allow to " .. what .. " even where system calls are not filtered", function()
      if unistd.geteuid() ~= 0 then
        return
      end
      local child <close> = new { without = { "seccomp" } }
      local v = assert(child:probe(what))
      assert.equal("error", v.verdict, what)
      assert(v.message:find "^E%u+$", v.message)
    end)
  end
end)

describe("a child that lies", function()
  for _, lie in ipairs { "kind", "size", "short", "empty", "verdict", "text", "name" } do
    it("about " .. lie .. " is a crash", function()
      local child <close> = new()
      local v = assert(child:probe("lie " .. lie))
      assert.equal("crash", v.verdict)
      assert.equal("", v.output)
      assert.is_false(child:alive())
    end)
  end

  it("by saying nothing is out of time", function()
    local child <close> = new { time = 0.1 }
    assert.equal("time", child:probe("lie silent").verdict)
  end)
end)

describe("a programmer's mistakes", function()
  it("are errors that name what is wrong", function()
    local wrong = {
      { { memori = 1 }, "unknown option 'memori'" }, { { memory = 0 }, "option 'memory' must be between" },
      { { memory = 1.5 }, "must be an integer" }, { { time = 0 }, "between 0.001" }, { { time = "1" }, "must be a number" },
      { { without = { "roof" } }, "unknown wall 'roof'" }, { { without = "seccomp" }, "must be a list of walls" },
      { { output = 1 << 40 }, "option 'output' must be between" }, { { instructions = -1 }, "must be between" },
    }
    for _, case in ipairs(wrong) do
      assert.error_matches(function() jail.new(case[1]) end, case[2])
    end
    local child <close> = new()
    for _, case in ipairs {
      { {}, "'source' is missing" }, { { source = 1 }, "must be a string" }, { { source = "", sauce = 1 }, "unknown option 'sauce'" },
      { { source = "", name = "" }, "must have 1 to 255 bytes" }, { { source = "", name = ("x"):rep(256) }, "must have 1 to 255" },
      { { source = "", name = "a\0b" }, "no NUL" }, { { source = "", modules = 1 }, "must be a table" },
      { { source = "", modules = { 1 } }, "texts by name" }, { { source = "", modules = { a = 1 } }, "texts by name" },
      { { source = "", check = 1 }, "must be a boolean" },
    } do
      assert.error_matches(function() child:run(case[1]) end, case[2])
    end
    assert.error_matches(function() child:run(1) end, "table expected")
    assert.error_matches(function() child.run(1) end, "jail")
    assert.equal("ok", child:load({}).verdict)
    assert.error_matches(function() child:load {} end, "is loaded already")
    assert.equal("syntax", child:run({ source = "\0" }).verdict)
  end)

  it("include the use of a closed one", function()
    local child = new()
    assert(tostring(child):find "^jail %(process %d+%)$")
    child:close()
    child:close()
    assert.equal("jail (closed)", tostring(child))
    assert.is_false(child:alive())
    for _, method in ipairs { "run", "load", "probe", "walls", "pid" } do
      assert.error_matches(function() child[method](child, {}) end, "jail is closed")
    end
  end)
end)

describe("a finaliser that closes the child in use", function()
  local arguments = {
    run = { source = "" }, begin = { source = "" }, load = { modules = { ["a.lua"] = "" } }, probe = "open",
  }

  for _, name in ipairs { "run", "begin", "load", "probe", "walls" } do
    it("ends a " .. name .. " as any use of a closed one", function()
      local argument, live = arguments[name], jail.live_handles()
      local child <close> = new()
      finally(function() collectgarbage("incremental", 200, 100) end)
      collectgarbage("incremental", 100, 1000) -- a step is a whole collection, so that the first allocation runs it
      collectgarbage()
      collectgarbage "stop"
      setmetatable({}, { __gc = function() child:close() end })
      collectgarbage "restart"
      local ok, message = pcall(child[name], child, argument)
      assert(ok or message:find("jail is closed", 1, true), message)
      child:close()
      assert.equal(live, jail.live_handles())
    end)
  end
end)

describe("want of memory", function()
  it("leaks nothing, wherever it strikes", function()
    local before = descriptors()
    local steps = oom.run(function()
      local child <close> = new()
      local v = assert(child:run { source = "print('x')\nerror 'y'", modules = { ["m.lua"] = "x = =" } })
      assert(v.verdict == "error" and v.line == 2)
    end)
    assert(steps > 10)
    collectgarbage()
    collectgarbage()
    assert.equal(before, descriptors())
  end)
end)
