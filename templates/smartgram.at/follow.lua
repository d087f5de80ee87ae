-- フォロー: opens the suggestions and follows the accounts that are shown.

local FOLLOWS = 20
local PAGES = 12

local function open_suggestions(screen)
  screen.touch(0.90, 0.96) -- own profile
  screen.touch(0.80, 0.30) -- people to discover
end

return function(screen)
  screen.open_app()
  open_suggestions(screen)
  local done = 0
  for _ = 1, PAGES do
    while done < FOLLOWS and screen.press("follow", 1) do
      done = done + 1
      screen.rest(2.0, 6.0)
    end
    if done >= FOLLOWS then break end
    screen.swipe(0.80, 0.35)
  end
  return ("フォロー %d 件"):format(done)
end
