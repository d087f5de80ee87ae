-- ターゲット: looks up an account by its name, taken from the clipboard, and visits its newest posts.

local POSTS = 6

-- A name of the service: letters, digits, dots and underscores, perhaps with an @ before it.
local function account_name(text)
  return (text or ""):match("^%s*@?([%w._]+)%s*$")
end

local function search(screen, name)
  screen.touch(0.30, 0.96) -- the magnifying glass
  screen.touch(0.50, 0.08) -- its input line
  inputText(name)
  screen.pause(2)
  screen.touch(0.50, 0.20) -- the first account found
end

-- Posts lie three in a row, below the head of the profile.
local function visit(screen, index)
  local column, row = (index - 1) % 3, (index - 1) // 3
  screen.touch(0.17 + 0.33 * column, 0.60 + 0.18 * row)
  screen.rest(3.0, 6.0)
  screen.touch(0.06, 0.07) -- back
end

return function(screen)
  local name = account_name(clipText())
  if not name then return "クリップボードにユーザー名がありません" end
  screen.open_app()
  search(screen, name)
  for index = 1, POSTS do visit(screen, index) end
  return ("%s の投稿を %d 件表示"):format(name, POSTS)
end
