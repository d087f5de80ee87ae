-- フォロー解除: goes through the list of followed accounts from the top and leaves some of them.

local UNFOLLOWS = 15
local PAGES = 10

local function open_following(screen)
  screen.touch(0.90, 0.96) -- own profile
  screen.touch(0.85, 0.16) -- "following"
end

-- The app asks once more before it lets go; its answer lies in the lower third of the screen.
local function confirm(screen)
  screen.touch(0.50, 0.72)
end

return function(screen)
  screen.open_app()
  open_following(screen)
  local done = 0
  for _ = 1, PAGES do
    while done < UNFOLLOWS and screen.press("unfollow", 1) do
      confirm(screen)
      done = done + 1
      screen.rest(3.0, 7.0)
    end
    if done >= UNFOLLOWS then break end
    screen.swipe(0.80, 0.40)
  end
  return ("フォロー解除 %d 件"):format(done)
end
