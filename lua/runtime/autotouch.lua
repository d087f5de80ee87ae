-- What AutoTouch offers its scripts: its documented functions and constants, with plausible answers of a phone that
-- shows what is looked for. Data only; `runtime` makes the text from it.
local ROOT <const> = "/var/mobile/Library/AutoTouch/Scripts"

-- One match in the middle of a screen of 750 by 1334 points.
local MATCH <const> = "function() return { { 375, 667 } } end"

return {
  description = "AutoTouch on a phone with a screen of 750 by 1334 pixels",
  folder = ROOT,

  constants = {
    CONTROLLER_TYPE = {
      LABEL = "label", INPUT = "input", PICKER = "picker", SWITCH = "switch", BUTTON = "button", REMEMBER = "remember",
    },
    ORIENTATION_TYPE = {
      UNKNOWN = 0, PORTRAIT = 1, PORTRAIT_UPSIDE_DOWN = 2, LANDSCAPE_LEFT = 3, LANDSCAPE_RIGHT = 4,
    },
    KEY_TYPE = { HOME_BUTTON = 1, VOLUME_DOWN_BUTTON = 2, VOLUME_UP_BUTTON = 3, POWER_BUTTON = 4 },
  },

  functions = {
    -- fingers and keys
    tap = {}, touchDown = {}, touchMove = {}, touchUp = {}, keyDown = {}, keyUp = {}, keyPress = {}, inputText = {},
    swipe = {}, longPress = {},

    -- the screen
    getScreenResolution = { 750, 1334 },
    getScreenSize = { 375, 667 },
    getScreenScale = { 2 },
    getScreenColorBits = { 32 },
    getOrientation = { 1 },
    screenshot = { true },
    getColor = { 0xFFFFFF },
    getColors = [[function(places)
      local colors = {}
      for i = 1, type(places) == "table" and #places or 0 do colors[i] = 0xFFFFFF end
      return colors
    end]],
    findColor = MATCH, findColors = MATCH, findImage = MATCH,
    intToRgb = [[function(color)
      color = math.tointeger(color) or 0
      return color >> 16 & 255, color >> 8 & 255, color & 255
    end]],
    rgbToInt = [[function(r, g, b)
      local function byte(n) return (math.tointeger(n) or 0) & 255 end
      return byte(r) << 16 | byte(g) << 8 | byte(b)
    end]],
    ocr = { "" },

    -- applications
    appRun = { true }, appKill = { true }, appActivate = { true },
    appState = { "ACTIVATED" },
    appInfo = [[function(id)
      return { bundleID = id, displayName = "App", bundlePath = "/Applications/App.app", dataPath = "/var/mobile" }
    end]],
    frontMostAppId = { "com.apple.springboard" },
    frontMostAppOrientation = { 1 },
    openURL = { true },

    -- the user: the first button is pressed, inputs keep what they show
    dialog = [[function(controls)
      if type(controls) == "table" then
        for i = 1, #controls do
          local control = controls[i]
          if type(control) == "table" and control.type == CONTROLLER_TYPE.BUTTON then return control.flag or 1 end
        end
      end
      return 1
    end]],
    alert = {}, toast = {}, vibrate = {}, playAudio = {}, stopAudio = {}, log = {},
    copyText = {},
    clipText = { "clipboard" },

    -- the device and the script; time passes at once
    usleep = {},
    getSN = { "F2LXK0000000" },
    getVersion = { "8.4.0" },
    isLicensed = { true },
    keepAutoTouchAwake = {}, setAutoLaunch = {}, setTimer = {}, removeTimer = {},
    rootDir = { ROOT },
    currentPath = { ROOT .. "/script.at/main.lua" },
    collectgarbage = { 0 },
  },
}
