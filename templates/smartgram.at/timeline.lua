-- タイムライン: goes down the feed and likes what it has not liked yet.

local LIKES = 30     -- per run: more in a row looks like a machine
local MISSES = 5     -- screens without a heart before giving up
local LIKED = 0xED4956

-- A heart that is red already belongs to a post that was liked before.
local function is_liked(x, y)
  return getColor(x, y) == LIKED
end

local function like_visible(screen)
  local x, y = screen.find("heart")
  if not x or is_liked(x, y) then return false end
  tap(x, y)
  screen.rest(1.0, 2.5)
  return true
end

return function(screen)
  screen.open_app()
  local likes, misses = 0, 0
  while likes < LIKES and misses < MISSES do
    if like_visible(screen) then
      likes, misses = likes + 1, 0
    else
      misses = misses + 1
    end
    screen.swipe(0.75, 0.30)
  end
  return ("いいね %d 件"):format(likes)
end
