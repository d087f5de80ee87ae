-- `atelier template …` as an operator types it: exit codes, what goes where, and what is said.
local folders = require "spec.support.template_folder"
local host = require "atelier.host"
local json = require "atelier.json"
local postgres = require "postgres"
local program = require "spec.support.program"

local VARS = '{"device_hash": "A-1", "plan_tools": ["timeline"], "license_key": "K", "expires_at": "2030-01-01T00:00:00Z"}'

local function run(...) return program.run({ "template", ... }) end

local function ask(...)
  local code, text, err = run(...)
  local object, problem = json.decode(text)
  assert(object, ("%s\nstdout: %s\nstderr: %s"):format(problem, text, err))
  return code, object
end

local function file(name, text)
  local folder = folders.make({ [name] = text })
  return folder .. "/" .. name
end

describe("atelier template render", function()
  after_each(folders.clean)

  local function render(name, text, vars, ...)
    return run("render", file(name, text), "--vars", file("vars.json", vars or VARS), ...)
  end

  it("writes the text and nothing else", function()
    local code, out, err = render("main.lua", 'local d = "{{device_hash}}" local t = {{plan_tools}}\n')
    assert.equal(0, code)
    assert.equal('local d = "A-1" local t = {"timeline"}\n', out)
    assert.equal("", err)
  end)

  it("goes by the ending, in any case, or by --as", function()
    local hostile = '{"x": "a\\"b"}'
    for name, expected in pairs { ["m.lua"] = '"a\\"b"', ["m.LUA"] = '"a\\"b"', ["m.json"] = '"a\\"b"', ["m.txt"] = '"a"b"', ["m"] = '"a"b"' } do
      local code, out = render(name, name:lower():find("lua") and 'x = "{{x}}"' or '"{{x}}"', hostile)
      assert.equal(0, code, name)
      assert.equal((name:lower():find("lua") and "x = " or "") .. expected, out)
    end
    local code, out = render("m.txt", 'x = {{x}}', hostile, "--as", "lua")
    assert.equal(0, code)
    assert.equal('x = "a\\"b"', out)
  end)

  it("carries bytes, numbers and every token that JSON lacks to the renderer", function()
    local code, out = render("m.lua", "return {{x}}", '{"x": "\xff\0"}')
    assert.equal(0, code)
    assert.equal("\xff\0", load(out)())
    code, out = render("m.lua", "return {{a}}, {{b}}", '{"a": 9223372036854775807, "b": 1.0}')
    assert.equal(0, code)
    local a, b = load(out)()
    assert.equal(math.maxinteger, a)
    assert.equal("float", math.type(b))
    for _, token in ipairs { "NaN", "-NaN", "Infinity", "-Infinity" } do
      local refused, nothing, err = render("m.lua", "return {{x}}", ('{"x": %s}'):format(token))
      assert.equal(3, refused)
      assert.equal("", nothing)
      assert.matches("{{x}}", err, 1, true)
    end
  end)

  it("refuses with 3, a diagnosis, and nothing on standard output", function()
    local function refused(pattern, ...)
      local code, out, err = ...
      assert.equal(3, code, err)
      assert.equal("", out)
      assert.matches(pattern, err)
    end
    refused("m.lua:2:6: unknown variable {{nope}}\n  [^\n]*\n +%^~", render("m.lua", '\nx = "{{nope}}"'))
    refused("m.lua:1:5:.*would be part of a name", render("m.lua", "x = {{device_hash}}y"))
    refused("vars.json:1:7:", render("m.lua", "", '{"a": }'))
    refused("vars.json:1:1: an object expected", render("m.lua", "", "[1]"))
    refused("vars.json", render("m.lua", "", ""))
    local good = file("m.lua", "")
    refused("/nonexistent", run("render", good, "--vars", "/nonexistent"))
    refused("/nonexistent", run("render", "/nonexistent", "--vars", good))
    refused("Is a directory", run("render", "/tmp", "--vars", file("v.json", VARS)))
    refused("Is a directory", run("render", good, "--vars", "/tmp"))
    refused("/dev/zero: larger than", run("render", "/dev/zero", "--vars", file("v.json", VARS)))
  end)

  it("has 2 for usage alone", function()
    local good = file("m.lua", "")
    for _, words in ipairs { { "render" }, { "render", good }, { "render", good, "--vars" }, { "render", good, "--vars", good, "--as", "c" },
      { "render", good, "--vars", good, "--bogus" } } do
      local code, out = run(table.unpack(words))
      assert.equal(2, code)
      assert.equal("", out)
    end
  end)

  it("fails with 1 when the text cannot be written", function()
    local words = ("'%s' template render '%s' --vars '%s'"):format(host.exe, file("m.txt", ("x"):rep(100000)), file("v.json", VARS))
    local code, _, err = program.shell(words .. " >/dev/full")
    assert.equal(1, code)
    assert.matches("standard output", err)
  end)

  it("gives one object with --json", function()
    local code, answer = ask("render", file("m.txt", "<{{device_hash}}>"), "--vars", file("v.json", VARS), "--json")
    assert.equal(0, code)
    assert.equal("<A-1>", answer.text)
    code, answer = ask("render", file("m.txt", "{{nope}}"), "--vars", file("v.json", VARS), "--json")
    assert.equal(3, code)
    assert.equal("template", answer.code)
    code, answer = ask("render", file("m.txt", "{{x}}"), "--vars", file("v.json", '{"x": "\xff"}'), "--json")
    assert.equal(3, code)
    assert.matches("not UTF-8", answer.message, 1, true)
  end)
end)

describe("atelier template check", function()
  after_each(folders.clean)

  it("passes the shipped template, by name or folder", function()
    for _, word in ipairs { "smartgram", "smartgram.at", "templates/smartgram.at", "templates/smartgram.at/" } do
      local code, out, err = run("check", word)
      assert.equal(0, code, err)
      assert.equal("", err)
      assert.matches("ok  0 faults, 0 warnings", out, 1, true)
      assert.matches("\nmain.lua +%d", out)
      assert.is_nil(out:find("\27", 1, true), "no colour where there is no terminal")
      for line in out:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= 80, line) end
    end
  end)

  it("gives one object with --json", function()
    local code, answer = ask("check", "smartgram", "--json")
    assert.equal(0, code)
    assert.is_true(answer.ok)
    assert.equal("ok", answer.code)
    assert.same({}, answer.faults)
    assert.same({}, answer.warnings)
    assert.equal("smartgram", answer.template.name)
    assert.equal(3, #answer.plans)
    local starter = answer.plans[1]
    assert.equal("starter", starter.plan)
    assert.equal("ok", starter.verdict)
    assert.equal(6, #starter.files)
    assert.equal(7, #starter.left_out)
    for _, figure in ipairs { "instructions", "memory", "time_ms" } do assert.is_true(starter.usage[figure] > 0, figure) end
    assert.equal(10000000, answer.limits.instructions)
  end)

  it("refuses with 3, and tells each fault as a compiler does, on standard error", function()
    local folder = folders.make { ["main.lua"] = 'local d = "{{device_hash}}"\nlocal x = = 1\n', ["b.json"] = "[1," }
    local code, out, err = run("check", folder)
    assert.equal(3, code)
    assert.matches("refused  2 faults", out, 1, true)
    assert.matches("main.lua:2:11: .-\n  local x = = 1\n +%^", err)
    assert.matches("b.json:1:", err, 1, true)
    local answer
    code, answer = ask("check", folder, "--json")
    assert.equal(3, code)
    assert.is_false(answer.ok)
    assert.equal("template", answer.code)
    assert.equal(2, #answer.faults)
    assert.equal("main.lua", answer.faults[2].file)
    assert.equal(2, answer.faults[2].line)
  end)

  it("gives JSON whatever names and texts there are", function()
    local folder = folders.make { ["main.lua"] = "local s = '\u{e9}{{device_hash}}'\nerror('\\xff')", ["a.lua"] = "x = '\\xff" }
    folders.write(folder, "\xff\27[31m.txt", "")
    local code, answer = ask("check", folder, "--json")
    assert.equal(3, code)
    assert.equal("\\xff\27[31m.txt", answer.faults[1].file)
    local _, _, err = run("check", folder)
    assert.is_nil(err:find("\27", 1, true))
  end)

  it("refuses what is no template at all", function()
    for _, word in ipairs { "/nonexistent", "nonexistent", "/dev/null", "Makefile", "host/" } do
      local code, answer = ask("check", word, "--json")
      assert.equal(3, code, word)
      assert.is_true(#answer.message > 0)
    end
    assert.equal(2, (run("check")))
  end)

  it("says it loudly when the jail cannot be had, and does not vouch for the scripts", function()
    local words = ("ulimit -n 4; '%s' template check smartgram"):format(host.exe)
    local code, out, err = program.shell(words)
    assert.equal(1, code)
    assert.matches("THE SCRIPTS HAVE NOT BEEN RUN", err, 1, true)
    assert.matches("not known", out, 1, true)
    code, out, err = run("check", "smartgram", "--no-jail")
    assert.equal(0, code)
    assert.matches("THE SCRIPTS HAVE NOT BEEN RUN", err, 1, true)
    assert.matches("not known", out, 1, true)
  end)

  it("takes values from a file", function()
    local folder = folders.make { ["main.lua"] = "local n = {{params.n}} + 1" }
    assert.equal(3, (run("check", folder)))
    assert.equal(0, (run("check", folder, "--vars", file("v.json", '{"params": {"n": 1}}'))))
    assert.equal(3, (run("check", folder, "--vars", "/nonexistent")))
  end)
end)

describe("atelier template test", function()
  after_each(folders.clean)

  it("runs the shipped template's specs", function()
    local code, out, err = run("test", "templates/smartgram.at")
    assert.equal(0, code, out .. err)
    assert.matches("%d+ passed, 0 failed", out)
  end)

  it("tells of a failure, with 3", function()
    local folder = folders.make({ ["main.lua"] = 'log("{{device_hash}}")' })
    folders.write(folder, "spec/a_spec.lua", [[
local app = require("template.testing").here()
describe("main.lua", function()
  it("logs", function()
    local run = app:bundle("starter"):run()
    assert.equal("ok", run.verdict, run.why)
    assert.equal(1, run.calls.log)
    assert.equal(0, run.calls.tap)
  end)
  it("answers", function() assert.equal("ok", app:bundle({ "x" }):run { source = "error 'boom'" }.why) end)
end)]])
    local code, answer = ask("test", folder, "--json")
    assert.equal(3, code)
    assert.is_false(answer.ok)
    assert.equal(1, answer.passed)
    assert.equal(1, answer.failed)
    assert.equal("main.lua answers", answer.failures[1].name)
    assert.equal(9, answer.failures[1].line)
    assert.matches("error: (spec):1: boom", answer.failures[1].message, 1, true)
    folders.write(folder, "spec/a_spec.lua", "this is no Lua")
    assert.equal(3, (run("test", folder)))
    assert.equal(3, (run("test", folders.make { ["main.lua"] = "" })))
  end)
end)

describe("atelier template diff", function()
  after_each(folders.clean)

  it("tells what changes for each plan", function()
    local old = folders.make({ ["main.lua"] = "a\n", ["follow.lua"] = "", ["gone.txt"] = "" },
      { version = "1" })
    folders.write(old, "main.lua", "local a = 1\nlocal b = 2\n")
    local new = folders.make({ ["main.lua"] = 'local a = 1\nlocal c = "{{device_hash}}"\nlocal d\n', ["follow.lua"] = "", ["timeline.lua"] = "" },
      { version = "2", required_variables = json.array { "device_hash" } })
    local code, answer = ask("diff", old, new, "--json")
    assert.equal(0, code)
    assert.is_false(answer.same)
    assert.same({ { field = "version", old = "1", new = "2" } }, answer.manifest)
    assert.same({ "device_hash" }, answer.required_added)
    local starter, pro = answer.plans[1], answer.plans[2]
    assert.same({ "timeline.lua" }, starter.added)
    assert.same({ "gone.txt" }, starter.removed)
    assert.same({ "device_hash" }, starter.variables_added)
    assert.equal("main.lua", starter.changed[1].file)
    assert.equal(2, starter.changed[1].lines_added)
    assert.equal(1, starter.changed[1].lines_removed)
    assert.equal("pro", pro.plan)
    local _, out = run("diff", old, new)
    assert.matches("\nstarter\n  + timeline.lua\n  - gone.txt\n  ~ main.lua  +2 -1 lines", out, 1, true)
  end)

  it("sees no difference where there is none, and warns of one under the same version", function()
    local code, answer = ask("diff", "smartgram", "templates/smartgram.at", "--json")
    assert.equal(0, code)
    assert.is_true(answer.same)
    code, answer = ask("diff", folders.make { ["a.txt"] = "1" }, folders.make { ["a.txt"] = "2" }, "--json")
    assert.equal(0, code)
    assert.same({ "same_version" }, answer.warnings)
    assert.equal(3, (run("diff", "smartgram", "/nonexistent")))
    assert.equal(2, (run("diff", "smartgram")))
  end)
end)

describe("atelier template explain", function()
  it("tells for each file of a plan whether it is in, and by which rule", function()
    local code, answer = ask("explain", "--plan", "pro", "--json")
    assert.equal(0, code)
    local by_name = {}
    for _, f in ipairs(answer.files) do by_name[f.file] = f end
    assert.equal("ungated", by_name["main.lua"].rule)
    assert.equal("has-tool", by_name["follow.lua"].rule)
    assert.equal("by its name", by_name["follow.lua"].source)
    assert.equal("lacks-tool", by_name["basic_analysis.lua"].rule)
    assert.is_false(by_name["basic_analysis.lua"].included)
    assert.equal("its entry says so", by_name["images/heart.png"].source)
    local _, out = run("explain", "--plan", "max")
    assert.matches("24h_support", out, 1, true)
  end)

  it("refuses an unknown plan with 3, and no choice with 2", function()
    assert.equal(3, (run("explain", "--plan", "gold")))
    assert.equal(3, (run("explain", "--plan", "pro", "--template", "/nonexistent")))
    assert.equal(2, (run "explain"))
    assert.equal(2, (run("explain", "--plan", "pro", "--device", "D")))
  end)
end)

describe("with a database, atelier template", function()
  local state

  local function go(...) return program.run({ ... }, { ATELIER_STATE = state }) end

  local function answer_of(...)
    local words = { ... }
    words[#words + 1] = "--json"
    local code, text, err = go(table.unpack(words))
    return code, assert(json.decode(text), text .. err)
  end

  setup(function()
    state = program.folder()
    assert.equal(0, (go "migrate"))
    assert.equal(0, (program.run({ "demo" }, { ATELIER_STATE = state, SERVE = "0" })))
  end)

  teardown(function()
    assert(postgres.stop { dir = state .. "/postgres" })
    program.remove(state)
    folders.clean()
  end)

  it("publishes what passes the check, and only that", function()
    local code, answer = answer_of("template", "publish", "smartgram")
    assert.equal(0, code)
    assert.equal("published smartgram 1.0.0", answer.message)
    assert.is_true(answer.checked)
    local broken = folders.make({ ["main.lua"] = "while true do end" }, { name = "broken" })
    local refused, _, err = go("template", "publish", broken)
    assert.equal(3, refused)
    assert.matches("main.lua:1: instructions:", err, 1, true)
    assert.matches("--force", err, 1, true)
    code, answer = answer_of("template", "publish", broken, "--force")
    assert.equal(0, code)
    assert.is_false(answer.checked)
    assert.equal("forced", answer.warnings[1])
    local hopeless = folders.make({ ["template.json"] = "{" })
    assert.equal(3, (go("template", "publish", hopeless, "--force")))
    local other = folders.make({ ["main.lua"] = "" }, { name = "broken" })
    code, answer = answer_of("template", "publish", other)
    assert.equal(3, code)
    assert.equal("version_taken", answer.code)
  end)

  it("publishes what passes with the values that are given for the check", function()
    local folder = folders.make({ ["main.lua"] = "local n = {{params.n}} + 1" }, { name = "counting" })
    assert.equal(3, (go("template", "publish", folder)))
    assert.equal(3, (go("template", "publish", folder, "--vars", "/nonexistent")))
    local code, answer = answer_of("template", "publish", folder, "--vars", file("v.json", '{"params": {"n": 1}}'))
    assert.equal(0, code)
    assert.is_true(answer.checked)
  end)

  it("lists what is here and what is published", function()
    local code, answer = answer_of("template", "list")
    assert.equal(0, code)
    local seen = {}
    for _, t in ipairs(answer.templates) do seen[t.name] = t.published end
    assert.same({ broken = "1.0.0", counting = "1.0.0", smartgram = "1.0.0" }, seen)
  end)

  it("compares with a published version", function()
    local code, answer = answer_of("template", "diff", "smartgram@1.0.0", "smartgram")
    assert.equal(0, code)
    assert.is_true(answer.same)
    code, answer = answer_of("template", "diff", "broken@published", folders.make({ ["b.lua"] = "" }, { name = "broken", version = "2" }))
    assert.equal(0, code)
    assert.is_false(answer.whole)
    assert.same({ "manifest_only" }, answer.warnings)
    assert.same({ "b.lua" }, answer.plans[1].added)
    assert.same({ "main.lua" }, answer.plans[1].removed)
    assert.equal(3, (answer_of("template", "diff", "smartgram@9.9.9", "smartgram")))
  end)

  it("explains a device's files by its plan in the database", function()
    local code, answer = answer_of("template", "explain", "--device", "DEMO-PRO-001")
    assert.equal(0, code)
    assert.equal("pro", answer.plan)
    assert.is_true(answer.entitled)
    assert.equal("the subscription's", answer.plan_reason)
    local included = {}
    for _, f in ipairs(answer.files) do included[f.file] = f.included end
    assert.is_true(included["follow.lua"])
    assert.is_false(included["basic_analysis.lua"])
    local _, out = go("template", "explain", "--device", "DEMO-MAX-001", "--template", "templates/smartgram.at")
    assert.matches("DEMO-MAX-001  entitled", out, 1, true)
    code, answer = answer_of("template", "explain", "--device", "NOBODY")
    assert.equal(3, code)
    assert.equal("unknown_device", answer.code)
    code, answer = answer_of("template", "explain", "--device", "DEMO-PRO-001", "--template", "nothing")
    assert.equal(3, code)
    assert.equal("unknown_template", answer.code)
  end)
end)
