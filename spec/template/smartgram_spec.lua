-- The template that is shipped, for each of the three plans, on a screen that is not there.
local json = require "atelier.json"
local kit = require "template.kit"
local nasty = require "spec.support.nasty_values"
local plans = require "plans"
local template = require "template"

local STARTER = { "timeline", "basic_analysis" }
local PRO = { "timeline", "follow", "unfollow", "target", "video_training", "advanced_analysis" }
local MAX = { "timeline", "basic_analysis", "follow", "unfollow", "target", "video_training", "advanced_analysis", "unlimited",
  "consultant", "24h_support", "security" }

local function variables(tools, changes)
  local vars = { device_hash = "DEMO-001", plan = "max", plan_tools = json.array(tools), license_key = "ABCDE-FGHJK-MNPQR-STVWX-YZ012",
    expires_at = "2999-01-01T00:00:00Z", issued_at = "2024-01-01T00:00:00Z", template = "smartgram", version = "1.0.0",
    artifact_id = "0f8fad5b-d9cb-469f-a165-70867728950e", params = {} }
  for name, value in pairs(changes or {}) do vars[name] = value end
  return vars
end

-- A stand-in for the app: counts calls; `choice` is the button that is pressed, `seen` whether pictures are found.
local function app(texts, choice, seen)
  local said, calls, offered = {}, 0, 0
  local function quiet() calls = calls + 1 end
  local function say(text) said[#said + 1] = text end
  local env = { log = say, alert = say, toast = say }
  for _, name in ipairs { "touchDown", "touchMove", "touchUp", "usleep", "screenshot", "appRun", "appActivate", "inputText", "copyText" } do
    env[name] = quiet
  end
  function env.tap(x, y)
    assert(math.type(x) == "integer" and math.type(y) == "integer" and x >= 0 and y >= 0)
    calls = calls + 1
  end
  function env.getScreenResolution() return 750, 1334 end
  function env.getColor() return calls end
  function env.findColors() return seen and { { 1, 2 }, { 3, 4 } } or {} end
  function env.findImage() return seen and { { 10, 20 } } or {} end
  function env.getSN() return "SN" end
  function env.rootDir() return "/scripts" end
  function env.clipText() return " @some.one " end
  function env.dialog(controls)
    for _, control in ipairs(controls) do
      if control.flag and control.flag > 0 then offered = offered + 1 end
    end
    return choice
  end
  local loaded = {}
  function env.require(name)
    if not loaded[name] then
      loaded[name] = assert(load(assert(texts[name .. ".lua"], "no module " .. name), "=" .. name, "t", env))()
    end
    return loaded[name]
  end
  for _, name in ipairs { "assert", "ipairs", "math", "string", "table", "tostring", "rawget", "os" } do env[name] = _G[name] end
  env._G = env
  setmetatable(env, { __index = function(_, name) error("unknown global " .. name) end })
  assert(load(texts["main.lua"], "=main.lua", "t", env))()
  return said, calls, offered
end

describe("templates/smartgram.at", function()
  local loaded

  setup(function() loaded = assert(template.load("templates/smartgram.at")) end)

  it("is whole, with no fault and no stray file", function()
    local ok, warnings = loaded:compile_all()
    assert.is_true(ok)
    assert.same({}, warnings)
    assert.same({}, plans.problems(loaded.file_structure, { starter = STARTER, pro = PRO, max = MAX }))
    assert.equal("smartgram", loaded.name)
    assert.equal("1.0.0", loaded.version)
  end)

  it("has the lines of the schema document", function()
    local main
    for _, file in ipairs(loaded.files) do main = file.file == "main.lua" and file.text or main end
    for _, line in ipairs { 'local device_hash = "{{device_hash}}"', "local available_tools = {{plan_tools}} -- JSON array",
      'local license_key = "{{license_key}}"', 'local expires_at = "{{expires_at}}"' } do
      assert.truthy(main:find("\n" .. line .. "\n", 1, true), line)
    end
  end)

  for plan, tools in pairs { starter = STARTER, pro = PRO, max = MAX } do
    it("runs every tool of the plan " .. plan, function()
      local made = assert(kit.new(loaded, tools))
      local texts = assert(made:check(variables(tools)))
      assert.truthy(json.decode(texts["config.json"]))
      local _, _, count = app(texts, 0)
      assert.equal(#made.tools_with_files, count)
      for choice = 1, count do
        for _, seen in ipairs { true, false } do
          local said, calls = app(texts, choice, seen)
          assert.equal(3, #said)
          assert.truthy(calls > 10)
        end
      end
      app(texts, nil)
      app(texts, count + 1)
      for _, tool in ipairs(MAX) do
        local has = table.concat(tools, " "):find(tool, 1, true) ~= nil and not made.capabilities[1]
        if has then assert.truthy(texts[tool .. ".lua"], tool) end
      end
    end)
  end

  it("leaves out what the plan does not have", function()
    local texts = kit.new(loaded, STARTER):check(variables(STARTER))
    assert.truthy(texts["timeline.lua"] and texts["basic_analysis.lua"])
    assert.is_nil(texts["follow.lua"] or texts["target.lua"] or texts["advanced_analysis.lua"])
  end)

  it("says so when the licence has expired, and offers nothing", function()
    local made = kit.new(loaded, STARTER)
    local said, _, offered = app(made:check(variables(STARTER, { expires_at = "2020-01-01T00:00:00Z" })), 1)
    assert.equal(1, #said)
    assert.equal(0, offered)
  end)

  it("survives every hostile name of a device", function()
    local made = kit.new(loaded, STARTER)
    for _, case in ipairs(nasty.strings) do
      local texts = made:check(variables(STARTER, { device_hash = case.value }))
      assert.equal(utf8.len(case.value) ~= nil, texts ~= nil, case.name)
      if texts then app(texts, 1) end
    end
  end)
end)
