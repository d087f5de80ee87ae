-- What every tool needs of the screen: places as shares of its size, gestures like a hand's, patient searches.

local M = {}

-- The app's kinds of dialog controls; the names alone where a script runs outside of the app.
M.controls = rawget(_G, "CONTROLLER_TYPE") or { LABEL = "LABEL", BUTTON = "BUTTON" }

local APP = "com.burbn.instagram"
local SECOND = 1000000 -- usleep counts microseconds

local width, height = getScreenResolution()

function M.pause(seconds)
  usleep(math.floor(seconds * SECOND))
end

-- A pause of no fixed length, as a person makes it.
function M.rest(least, most)
  M.pause(least + math.random() * (most - least))
end

-- The present moment in UTC, like "2024-01-01T00:00:00Z"; the earliest one where the app offers no clock.
function M.now()
  local clock = rawget(_G, "os")
  return clock and clock.date and clock.date("!%Y-%m-%dT%H:%M:%SZ") or "0000-01-01T00:00:00Z"
end

function M.open_app()
  appActivate(APP)
  appRun(APP)
  M.pause(2)
end

-- Turns shares of the screen (0 to 1) into pixels.
function M.at(x, y)
  return math.floor(width * x), math.floor(height * y)
end

function M.touch(x, y)
  tap(M.at(x, y))
  M.rest(0.4, 0.9)
end

-- One slow stroke of a finger from a share of the height to another.
function M.swipe(from, to)
  local x, y = M.at(0.5, from)
  local _, goal = M.at(0.5, to)
  local steps = 12
  touchDown(1, x, y)
  for step = 1, steps do
    usleep(16000)
    touchMove(1, x, y + (goal - y) * step // steps)
  end
  touchUp(1, x, goal)
  M.rest(0.8, 1.6)
end

-- Where a picture of the folder images/ is seen, as pixels, or nil. A few misses are given time.
function M.find(image, patience)
  local path = rootDir() .. "/smartgram.at/images/" .. image .. ".png"
  for _ = 1, patience or 2 do
    local found = findImage(path, 1, 0.9)
    if found and found[1] then return found[1][1], found[1][2] end
    M.pause(0.5)
  end
  return nil
end

-- Presses what a picture shows; tells whether it was there.
function M.press(image, patience)
  local x, y = M.find(image, patience)
  if not x then return false end
  tap(x, y)
  M.rest(0.8, 2.0)
  return true
end

-- How many places show a colour.
function M.count_color(color, most)
  local found = findColors({ { color, 0, 0 } }, most or 50)
  return found and #found or 0
end

return M
