-- Runtimes as data: what the text of one does, and what is told about one that is broken.
local host = require "atelier.host"
local jail = require "atelier.jail"
local runtime = require "runtime"

local function faults(data)
  local text, message, code = runtime.compile(data, "toy.lua")
  assert.is_nil(text)
  assert.equal("runtime", code)
  return message
end

local function run(data, source, results)
  local child <close> = assert(jail.new { time = 60 })
  local text = assert(runtime.compile(data, "toy.lua", results))
  local loaded = assert(child:load { prelude = text, name = "toy" })
  assert.equal("ok", loaded.verdict, loaded.message)
  return assert(child:run { source = source })
end

after_each(function()
  collectgarbage()
  collectgarbage()
  assert.equal(0, jail.live_handles())
end)

describe("a runtime", function()
  it("has constants of every kind, to the bit", function()
    local v = run({ constants = {
      S = "a\0\"\\\n\r]]\255", I = math.mininteger, F = 0.1, B = false, T = { x = { 1, 2.5, "three" }, ["end"] = true, [7] = "seven" },
    } }, [[
      assert(S == "a\0\"\\\n\r]].. "\x5d\x5d" ..[[\255" and I == math.mininteger and F == 0.1 and B == false)
      assert(T.x[3] == "three" and math.type(T.x[1]) == "integer" and T["end"] and T[7] == "seven")
    ]])
    assert.equal("ok", v.verdict, v.message)
  end)

  it("has functions that answer constants, or compute", function()
    local v = run({ constants = { BASE = 10 }, functions = {
      none = {}, two = { 1, "b" }, hole = { n = 2, [2] = true }, plus = "function(n) return n + BASE end",
    } }, "print((none())) print(two()) print(hole()) print(plus(5))")
    assert.equal("nil\n1\tb\nnil\ttrue\n15\n", v.output, v.message)
    assert.same({ none = 1, two = 1, hole = 1, plus = 1 }, v.calls)
  end)

  it("answers otherwise where a caller wants it", function()
    local data = { functions = { ask = { 1 }, compute = "function() return 1 end" } }
    assert.equal("2\t3\n", run(data, "print(ask(), compute())", { ask = { 2 }, compute = { 3 } }).output)
    local _, message = runtime.compile(data, "toy.lua", { unheard = { 1 } })
    assert(message:find("no function 'unheard'", 1, true), message)
    assert.same({ 1 }, data.functions.ask)
  end)

  it("knows no other global, wherever it is read", function()
    local v = run({}, "local function f()\n  return _G.nothing\nend\nf()")
    assert.same({ "error", 2, "unknown global 'nothing'" }, { v.verdict, v.line, v.message })
    assert.equal("ok", run({}, "if rawget(_G, 'nothing') then error() end x = nil return x").verdict)
  end)

  it("that is broken is told in full", function()
    assert(faults({ colours = {}, functions = 1 }):find("unknown key 'colours'.*functions must be a table, not a number"))
    local message = faults { constants = { ["end"] = 1, F = print, N = 0 / 0, [1] = 2 }, functions = {
      ["a b"] = {}, f = 1, g = "function(", h = "3", i = { print }, j = "function() end) os.exit(", k = "(function() end)()",
    } }
    for _, part in ipairs { '"end" is no name', "constants.F: a function has no text", "constants.N: a %-?nan has no text", '"1" is no name',
      '"a b" is no name', "functions.f: is a number", "functions.g:1:", "functions.h: its text is no function",
      "functions.i: result 1: a function has no text", "functions.j", "functions.k: its text is no function" } do
      assert(message:find(part), part .. "\nnot in\n" .. message)
    end
    local circle = {}
    circle[1] = circle
    assert(faults({ constants = { C = circle } }):find "nested too deep")
  end)

  it("is found by name only", function()
    assert(runtime.load "autotouch")
    for _, name in ipairs { "", "init", "nothing", "../jail", "auto touch", "a/b" } do
      local found, message, code = runtime.load(name)
      assert.is_nil(found)
      assert.equal("runtime", code)
      assert(message:find("there is no runtime", 1, true))
    end
  end)
end)

describe("autotouch", function()
  it("has what the shipped scripts and the documentation name", function()
    local names = ("tap touchDown touchMove touchUp usleep log alert toast dialog getScreenResolution getScreenSize getColor getColors "
      .. "findColor findColors findImage screenshot appRun appActivate appKill appState getSN rootDir currentPath inputText "
      .. "copyText clipText vibrate playAudio openURL keyDown keyUp getOrientation getVersion intToRgb rgbToInt")
    local child <close> = assert(jail.new { time = 60 })
    child:load(assert(runtime.load "autotouch"))
    local v = assert(child:run { source = ([[
      for name in (%q):gmatch "%%S+" do
        assert(type(rawget(_G, name)) == "function", name)
        pcall(_G[name]) pcall(_G[name], 1, 2, 3) pcall(_G[name], {}, "x", nil)
      end
      assert(CONTROLLER_TYPE.BUTTON and ORIENTATION_TYPE.PORTRAIT and KEY_TYPE.HOME_BUTTON)
      assert(dialog() == 1 and dialog { { type = CONTROLLER_TYPE.BUTTON, flag = 0 } } == 0)
    ]]):format(names) })
    assert.equal("ok", v.verdict, v.message)
    for name in names:gmatch "%S+" do
      assert(v.calls[name] >= 3, name)
    end
  end)

  it("takes no time to sleep, however long", function()
    local child <close> = assert(jail.new { time = 60 })
    child:load(assert(runtime.load "autotouch"))
    local v = assert(child:run { source = "for _ = 1, 1000 do usleep(3600000000) end" })
    assert.same({ "ok", 1000 }, { v.verdict, v.calls.usleep })
  end)

  it("is data", function()
    local chunk = assert(loadfile(host.root .. "/lua/runtime/autotouch.lua", "t", {}))
    assert.equal("table", type(chunk()))
  end)
end)
