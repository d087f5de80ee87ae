-- Whole templates through the check: what is right passes, and what is wrong is told with its place.
local check = require "template.check"
local fault = require "template.fault"
local folders = require "spec.support.template_folder"
local jail = require "atelier.jail"
local json = require "atelier.json"
local plan_check = require "template.plan_check"
local rehearsal = require "template.rehearsal"

-- What is no verdict here is only slow.
plan_check.SECONDS, rehearsal.SECONDS = 600, 600
local PATIENT = { jail_time = 60 }

local function heads(list)
  local lines = {}
  for i, f in ipairs(list) do lines[i] = fault.format(f):match("^[^\n]*") end
  return lines
end

local function run(files, changes, options)
  options = setmetatable({}, { __index = options })
  options.config = options.config or PATIENT
  return check.run(folders.make(files, changes), options)
end

local function refused(files, changes, options)
  local report = run(files, changes, options)
  assert.is_false(report.ok)
  return heads(report.faults), report
end

local ONE_PLAN = { plans = { { name = "starter", tools = { "timeline" } } } }

describe("a check", function()
  after_each(function()
    folders.clean()
    collectgarbage()
    collectgarbage()
    assert.equal(0, jail.live_handles())
  end)

  it("passes the shipped template, and tells what it calls and costs", function()
    local report = check.run("templates/smartgram.at", { config = PATIENT })
    assert.same({}, heads(report.faults))
    assert.same({}, heads(report.warnings))
    assert.is_true(report.ok)
    assert.is_nil(report.not_run)
    assert.same({ "starter", "pro", "max" }, { report.plans[1].plan, report.plans[2].plan, report.plans[3].plan })
    for i, runs in ipairs { 6, 9, 10 } do -- screen.lua is loaded alone, once
      assert.equal("ok", report.plans[i].verdict)
      assert.equal(runs, report.plans[i].runs)
      assert.is_true(report.plans[i].hostile > 90)
    end
    assert.equal(9, #report.scripts)
    for _, script in ipairs(report.scripts) do
      assert.is_true(script.instructions > 0 and script.memory > 0 and script.time_ms > 0, script.script)
    end
    assert.is_true(report.calls.tap > 0)
    assert.equal(0, report.rehearsal.left_out)
    assert.is_true(report.rehearsal.values > 800 and report.rehearsal.refused > 0)
  end)

  it("tells of rules that the plans and the template break", function()
    assert.same({
      "template.json: tool flying: unknown to the template and to the rules",
      "template.json:18:5: target.lua: claimed by two tools: follow (its entry) and target (its name)",
      "template.json:23:5: timeline.lua: required, but the plan lacks the tool timeline",
      "template.json:33:5: required_variables[1]: no worker has a value for serial",
    }, (refused({ ["main.lua"] = "", ["target.lua"] = "", ["timeline.lua"] = "", ["template.json"] = [[{
  "name": "sample",
  "version": "1",




  "file_structure": [
    {"file": "main.lua", "type": "lua"},








    {"file": "target.lua", "type": "lua", "tool": "follow"},




    {"file": "timeline.lua", "type": "lua", "required": true}
  ],







  "required_variables": [
    "serial"
  ]
}]] }, nil, { plans = { { name = "odd", tools = { "flying" } } } })))
  end)

  it("tells of every file that is no Lua or no JSON, and where", function()
    local files = { ["config.json"] = '{"a": }' }
    for i = 1, 30 do files[("m%02d.lua"):format(i)] = "return = " .. i end
    local list = refused(files)
    assert.equal(31, #list)
    assert.matches("^config.json:1:%d+: ", list[1])
    assert.equal("m30.lua:1:8: unexpected symbol near '='", list[31])
  end)

  it("tells of siblings that are not there, and of circles", function()
    local list = refused({ ["main.lua"] = 'local a = require "a"\nlocal x = require("nothing")', ["a.lua"] = 'require "b"',
      ["b.lua"] = 'require "a"' }, nil, ONE_PLAN)
    assert.same({
      "b.lua:1: require: scripts require each other: a.lua -> b.lua -> a.lua",
      "b.lua:1:1: scripts that need each other: a.lua → b.lua → a.lua",
      'main.lua:2:11: require "nothing": the template has no such script',
    }, list)
  end)

  it("tells which script failed, on which line, in which plan, behind which button", function()
    local main = [[
local tools = {{plan_tools}}
local function button(title, flag) return { type = CONTROLLER_TYPE.BUTTON, title = title, flag = flag } end
local chosen = dialog { button("fine", 1), button("broken", 2) }
if chosen == 2 then require "follow" end
]]
    local list, report = refused({ ["main.lua"] = main, ["follow.lua"] = "local x = 1\nswim(x)" })
    assert.same({
      "follow.lua:2: unknown global 'swim' (when button 2, broken is pressed)",
      'main.lua:4: require: no script \'follow\' here; there are: main.lua (when button 2, broken is pressed)',
    }, list)
    assert.same({ "pro", "max" }, report.faults[1].plans)
    assert.same({ "starter" }, report.faults[2].plans)
    assert.equal("swim(x)", report.faults[1].excerpt[1])
    assert.equal("follow.lua belongs to the tool follow, which the plan starter lacks: look into {{plan_tools}} before loading it",
      report.faults[2].hint)
  end)

  it("tells which limit a script runs into", function()
    for text, expected in pairs {
      ["local x = 1\nwhile true do x = x + 1 end"] = "^main.lua:2: instructions: ",
      ["local t = {}\nfor i = 1, 1e9 do t[i] = ('x'):rep(1e6) .. i end"] = "^main.lua:2: memory: ",
      ["local s = ('a'):rep(40)\nprint(s:find(('a*'):rep(30) .. 'b'))"] = "^main.lua:?2?: time: ",
      ["for i = 1, 1e5 do print(i) end"] = "^main.lua:1: output: ",
      ["error { 1 }"] = "^main.lua:?1?: error object is a table value",
    } do
      local limits = expected:find "time" and { jail_time = 0.3 } or PATIENT
      local list, report = refused({ ["main.lua"] = text }, nil, { plans = ONE_PLAN.plans, config = limits })
      assert.equal(1, #list, table.concat(list, "\n"))
      assert.matches(expected, list[1])
      assert.not_equal("ok", report.plans[1].verdict)
    end
  end)

  it("runs each script at least once, also those that main.lua does not ask for", function()
    local list, report = refused({ ["main.lua"] = "", ["a.lua"] = "while true do end", ["b.lua"] = "nothing()" }, nil, ONE_PLAN)
    assert.equal(1, #list)
    assert.matches("^a.lua:1: instructions: .*loaded alone", list[1])
    assert.equal(1, #report.warnings)
    assert.matches("^b.lua:1: unknown global 'nothing' %(loaded alone", heads(report.warnings)[1])
  end)

  it("warns of places that refuse what is fine text, and of scripts that refuse it", function()
    local report = run({ ["main.lua"] = '-- {{device_hash}}\nassert(#"{{device_hash}}" > 0, "no name")' }, nil, ONE_PLAN)
    assert.is_true(report.ok)
    local list = heads(report.warnings)
    assert.matches("^main.lua:1:4: {{device_hash}} holds a line end.*%d+ of %d+ hostile texts are refused here", list[1])
    assert.matches("^main.lua:2: no name %(hostile value, empty%); 1 of %d+ hostile texts end so", list[2])
  end)

  it("takes values for params from the samples, or from those given", function()
    local files = { ["main.lua"] = "local n = {{params.limits.likes}} + 1" }
    local list = refused(files, nil, ONE_PLAN)
    assert.equal(1, #list)
    assert.matches("^main.lua:1: ", list[1])
    assert.is_true(run(files, nil, { plans = ONE_PLAN.plans, vars = { params = { limits = { likes = 3 } } } }).ok)
  end)

  it("tells of unknown variables and of a runtime that is not there", function()
    local list, report = refused({ ["main.lua"] = 'local a, b = "{{serial}}", {{params}}' }, { runtime = "nokia" }, ONE_PLAN)
    assert.equal("main.lua:1:15: unknown variable {{serial}}", list[2])
    assert.matches("^template.json:%d+:%d+: runtime: there is no runtime 'nokia'", list[1])
    assert.matches("nokia", report.not_run)
  end)

  it("tells of a runtime that is itself broken, by its line", function()
    local folder = folders.make { ["own.lua"] = "return {\n  functions = { tap = 7 },\n  colour = 1 }", ["worse.lua"] = "return {\n}}",
      ["late.lua"] = "return { functions = { tap = 'function() return 1 end' }, constants = { error = 1 } }" }
    local options = { plans = ONE_PLAN.plans, config = { runtimes_dir = folder } }
    for name, pattern in pairs { own = "own.lua: unknown key 'colour'", worse = "worse.lua:2: " } do
      local list = refused({ ["main.lua"] = "tap()" }, { runtime = name }, options)
      assert.matches("^template.json:%d+:%d+: runtime: .*" .. pattern, table.concat(list, "\n"))
    end
    assert.is_true(run({ ["main.lua"] = "tap()" }, { runtime = "late" }, options).ok)
  end)

  it("tries no more buttons than it can, and says so", function()
    local report = run({ ["main.lua"] = [[
      local all = {}
      for i = 1, 100 do all[i] = { type = CONTROLLER_TYPE.BUTTON, flag = i, title = "a\tb\nc" } end
      if dialog(all) == 25 then nothing() end
      print("\ntryout report\t9\tx\ty")]] }, nil, ONE_PLAN)
    assert.is_true(report.ok)
    assert.equal(26, report.plans[1].runs)
    assert.equal("main.lua: the first dialog has 100 buttons: only 24 were tried", heads(report.warnings)[1])
  end)

  it("says so when nothing was run", function()
    local report = run({ ["main.lua"] = "while true do end" }, nil, { jail = false })
    assert.is_true(report.ok)
    assert.equal("the jail was not wanted", report.not_run)
    assert.is_nil(report.plans[1].verdict)
  end)

  it("needs no main.lua, no Lua at all, and no placeholder", function()
    local report = run({ ["a.txt"] = "hello" }, nil, ONE_PLAN)
    assert.is_true(report.ok)
    assert.same({ "main.lua: the bundle has none: each script is loaded alone" }, heads(report.warnings))
  end)

  it("does not trust a rendering: a value that became code is found by its skeleton", function()
    local render = require "template.render"
    local honest = render.compile
    finally(function() render.compile = honest end)
    render.compile = function(text, options)
      local compiled, message, code = honest(text, options)
      if compiled and options.as == "lua" then
        function compiled.render(self, vars)
          if vars.device_hash ~= '" .. x .. "' then return getmetatable(self).__index.render(self, vars) end
          return (text:gsub("{{device_hash}}", vars.device_hash))
        end
      end
      return compiled, message, code
    end
    local list = refused({ ["main.lua"] = 'local d = "{{device_hash}}"' }, nil, { plans = ONE_PLAN.plans, jail = false })
    assert.same({ 'main.lua: hostile value, string "\\" .. x .. \\"": the value has become part of the code around it' }, list)
  end)

  it("comes to an end with ten thousand files, and with a large one", function()
    local files = { ["main.lua"] = 'local d = "{{device_hash}}"' }
    for i = 1, 9999 do files["m" .. i .. ".lua"] = i % 2 == 0 and "return " .. i or "return = " .. i end
    local list = refused(files, nil, ONE_PLAN)
    assert.equal(5000, #list)
    local long = { ["main.lua"] = 'local d = "{{device_hash}}"\n' .. ("d = d .. 'x' -- a line\n"):rep(40000) }
    rehearsal.SECONDS = 0.2
    local report = run(long, nil, ONE_PLAN)
    rehearsal.SECONDS = 600
    assert.is_true(report.ok)
    assert.is_true(report.rehearsal.left_out > 0)
  end)

  it("warns of a bundle that is larger than what a device opens", function()
    local limit = check.BUNDLE_BYTES
    local files = { ["main.lua"] = "return 1", ["follow.txt"] = ("x"):rep(3000), ["always.txt"] = ("x"):rep(2000) }
    local plans = { { name = "small", tools = {} }, { name = "large", tools = { "follow" } } }
    local report = run(files, nil, { plans = plans })
    assert.same({}, heads(report.warnings))
    check.BUNDLE_BYTES = 5000
    report = run(files, nil, { plans = plans })
    check.BUNDLE_BYTES = limit
    assert.is_true(report.ok)
    assert.same({ "template.json: the files have 5008 bytes together; what opens them takes at most 5000" }, heads(report.warnings))
    assert.same({ "large" }, report.warnings[1].plans)
    assert.equal(1 << 30, limit)
  end)

  it("checks the plans that it is given, in their order", function()
    local report = run({ ["main.lua"] = "" }, nil, { plans = { { name = "b", tools = {} }, { name = "a", tools = json.array {} } } })
    assert.same({ "b", "a" }, { report.plans[1].plan, report.plans[2].plan })
  end)
end)
