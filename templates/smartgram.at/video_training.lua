-- 動画トレーニング: watches short videos to their end, so that the suggestions learn what the account is about.

local VIDEOS = 10
local LEAST, MOST = 6, 20 -- seconds for one video

-- A video moves: if a few points keep their colours for a while, it stands still.
local POINTS = { { 0.25, 0.30 }, { 0.50, 0.50 }, { 0.75, 0.65 } }

local function colors(screen)
  local list = {}
  for i, point in ipairs(POINTS) do list[i] = getColor(screen.at(point[1], point[2])) end
  return table.concat(list, " ")
end

local function is_playing(screen)
  local before = colors(screen)
  screen.pause(1)
  return colors(screen) ~= before
end

return function(screen)
  screen.open_app()
  screen.touch(0.50, 0.96) -- the tab of short videos
  local watched = 0
  for _ = 1, VIDEOS do
    if not is_playing(screen) then screen.touch(0.50, 0.50) end
    screen.rest(LEAST, MOST)
    watched = watched + 1
    screen.swipe(0.85, 0.15)
  end
  return ("動画 %d 本を視聴"):format(watched)
end
