-- SMARTGRAM for each plan, in the jail: `atelier template test templates/smartgram.at`.
local testing = require "template.testing"

local app = testing.here()

local TITLES = {
  timeline = "タイムライン自動いいね", follow = "自動フォロー", unfollow = "自動フォロー解除", target = "ターゲットユーザー",
  video_training = "動画トレーニング", basic_analysis = "基本分析", advanced_analysis = "高度な分析",
}

local function runs_well(run)
  assert.equal("ok", run.verdict, run.why)
  return run
end

for _, plan in ipairs(testing.plans) do
  describe("main.lua of the plan " .. plan.name, function()
    local bundle = app:bundle(plan.name)

    it("offers the plan's tools and a way out", function()
      local seen = {}
      for i = 1, runs_well(bundle:run { button = 0 }).buttons do
        seen[runs_well(bundle:run { button = i }).title] = true
      end
      for _, tool in ipairs(plan.tools) do
        assert.equal(TITLES[tool] ~= nil, seen[TITLES[tool] or ""] == true, tool)
        seen[TITLES[tool] or ""] = nil
      end
      assert.same({ ["キャンセル"] = true }, seen)
    end)

    it("does nothing when the dialog is called off", function()
      local run = runs_well(bundle:run { answers = { dialog = { 0 } } })
      assert.equal(0, run.calls.tap + run.calls.appRun)
    end)

    it("works on a screen that shows nothing", function()
      local blind = { findImage = "function() return {} end", findColors = "function() return {} end" }
      for i = 1, bundle:run { button = 0 }.buttons do runs_well(bundle:run { button = i, answers = blind }) end
    end)
  end)
end

describe("timeline.lua", function()
  it("likes no more than 30 times in a run", function()
    local run = runs_well(app:bundle("starter"):run { source = 'print(require "timeline"(require "screen"))' })
    assert.equal("いいね 30 件\n", run.output)
    assert.equal(30, run.calls.tap)
  end)

  it("gives up after five screens without a heart", function()
    local run = runs_well(app:bundle("starter"):run {
      source = 'print(require "timeline"(require "screen"))', answers = { findImage = "function() return {} end" },
    })
    assert.equal("いいね 0 件\n", run.output)
  end)
end)

describe("an expired licence", function()
  it("is told, and nothing is offered", function()
    local run = runs_well(app:bundle("max", { expires_at = "2020-01-01T00:00:00Z" }):run())
    assert.equal(1, run.calls.alert)
    assert.equal(0, run.calls.dialog)
  end)
end)

describe("a hostile name of a device", function()
  it("is refused by config.json, or is text and nothing else", function()
    for _, case in ipairs(testing.hostile) do
      if #case.value < 8 and not case.name:find "^byte" then
        local bundle, why = app:try("starter", { device_hash = case.value })
        if bundle then
          assert.equal(case.value, bundle:json().device_hash)
          runs_well(bundle:run())
        else
          assert.matches("config.json:", why, 1, true)
          assert.is_nil(utf8.len(case.value))
        end
      end
    end
  end)
end)
