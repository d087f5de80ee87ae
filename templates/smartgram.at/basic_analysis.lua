-- 基本分析: pictures of the profile and of the newest posts, and one line of numbers for the log.

local LIKED = 0xED4956
local PAGES = 3

local function picture(name)
  screenshot(rootDir() .. "/smartgram_" .. name .. ".png")
end

return function(screen)
  screen.open_app()
  screen.touch(0.90, 0.96) -- own profile
  picture("profile")
  local hearts = 0
  for page = 1, PAGES do
    hearts = hearts + screen.count_color(LIKED, 20)
    picture("page" .. page)
    screen.swipe(0.80, 0.30)
  end
  return ("画面 %d 枚を保存, ハート %d 個"):format(PAGES + 1, hearts)
end
