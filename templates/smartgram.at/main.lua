-- SMARTGRAM: offers the tools of the plan, and runs the one that is chosen.

local device_hash = "{{device_hash}}"
local available_tools = {{plan_tools}} -- JSON array
local license_key = "{{license_key}}"
local expires_at = "{{expires_at}}"

local screen = require "screen"

-- Tools that come as a file of their own, in the order of the menu. Other names of a plan are capabilities.
local MENU = {
  { tool = "timeline", title = "タイムライン自動いいね" },
  { tool = "follow", title = "自動フォロー" },
  { tool = "unfollow", title = "自動フォロー解除" },
  { tool = "target", title = "ターゲットユーザー" },
  { tool = "video_training", title = "動画トレーニング" },
  { tool = "basic_analysis", title = "基本分析" },
  { tool = "advanced_analysis", title = "高度な分析" },
}

local CANCEL = 0

local function contains(list, wanted)
  for _, item in ipairs(list) do
    if item == wanted then return true end
  end
  return false
end

local function offered()
  local menu = {}
  for _, entry in ipairs(MENU) do
    if contains(available_tools, entry.tool) then menu[#menu + 1] = entry end
  end
  return menu
end

-- "2024-01-01T00:00:00Z" of this format sort by time as they sort by text.
local function has_expired(today)
  return expires_at:match("^%d%d%d%d%-%d%d%-%d%dT") ~= nil and expires_at < today
end

-- Shows the last five characters alone: enough to tell two licences apart, too few to give one away.
local function short_key()
  return "*****-" .. license_key:sub(-5)
end

local function label(text)
  return { type = screen.controls.LABEL, text = text }
end

local function button(title, color, flag)
  return { type = screen.controls.BUTTON, title = title, color = color, width = 0.9, flag = flag, collectInputs = true }
end

local function controls_for(menu)
  local controls = {
    label("SMARTGRAM"),
    label("端末: " .. device_hash),
    label("ライセンス: " .. short_key()),
    label("有効期限: " .. expires_at),
    label("実行する機能を選択してください"),
  }
  for i, entry in ipairs(menu) do controls[#controls + 1] = button(entry.title, 0x68D391, i) end
  controls[#controls + 1] = button("キャンセル", 0xFF5733, CANCEL)
  return controls
end

-- A tool is a function that works and says in one line what it did.
local function run(entry)
  log("SMARTGRAM " .. entry.tool .. ": 開始")
  local work = require(entry.tool)
  local summary = work(screen)
  log("SMARTGRAM " .. entry.tool .. ": " .. summary)
  toast(entry.title .. "\n" .. summary, 3)
end

local function main()
  local menu = offered()
  if has_expired(screen.now()) then
    alert("ライセンスの有効期限が切れています: " .. expires_at)
  elseif #menu == 0 then
    alert("このプランで使える機能がありません")
  else
    local chosen = menu[dialog(controls_for(menu))]
    if chosen then run(chosen) end
  end
end

main()
