-- 高度な分析: counts what the feed is made of, screen by screen, and leaves a table on the clipboard.

local SCREENS = 15
local SIGNS = {
  { name = "いいね済み", color = 0xED4956 },
  { name = "リンク", color = 0x0095F6 },
  { name = "認証済み", color = 0x3897F0 },
}

local function measure(screen)
  local row = {}
  for i, sign in ipairs(SIGNS) do row[i] = screen.count_color(sign.color, 20) end
  return row
end

local function header()
  local names = { "画面" }
  for i, sign in ipairs(SIGNS) do names[i + 1] = sign.name end
  return table.concat(names, "\t")
end

local function total(rows, column)
  local sum = 0
  for _, row in ipairs(rows) do sum = sum + row[column] end
  return sum
end

local function as_text(rows)
  local lines = { header() }
  for number, row in ipairs(rows) do lines[number + 1] = number .. "\t" .. table.concat(row, "\t") end
  return table.concat(lines, "\n")
end

return function(screen)
  screen.open_app()
  local rows = {}
  for number = 1, SCREENS do
    rows[number] = measure(screen)
    screen.swipe(0.75, 0.30)
  end
  copyText(as_text(rows))
  local sums = {}
  for i, sign in ipairs(SIGNS) do sums[i] = ("%s %d"):format(sign.name, total(rows, i)) end
  return ("端末 %s: %s"):format(tostring(getSN()), table.concat(sums, ", "))
end
