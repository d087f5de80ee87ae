--- What a person sees: colour on a terminal only, text that cannot drive it, aligned tables, human sizes.
-- @module cli.term
local unistd = require "posix.unistd"

local M = {}

local coloured = unistd.isatty(1) == 1 and unistd.isatty(2) == 1 and not os.getenv "NO_COLOR"
  and os.getenv "TERM" ~= "dumb"

--- Whether progress can be drawn: on standard error, for a person.
-- @treturn boolean
function M.is_terminal()
  return unistd.isatty(2) == 1 and os.getenv "TERM" ~= "dumb"
end

local function colour(code)
  return function(text)
    return coloured and ("\27[%sm%s\27[0m"):format(code, text) or tostring(text)
  end
end

M.bold = colour "1"
M.dim = colour "2"
M.red = colour "31"
M.green = colour "32"
M.yellow = colour "33"
M.cyan = colour "36"

--- Text from outside made safe to print: control characters (but the end of a line) become visible.
-- @tparam string text
-- @treturn string
function M.safe(text)
  return (tostring(text):gsub("[%z\1-\8\11-\31\127]", function(c)
    return ("\\x%02x"):format(c:byte())
  end))
end

--- Text from outside for one place in a line: no line ends, nothing that turns the writing around (Unicode TR 9).
-- @tparam string text
-- @treturn string
function M.line(text)
  text = M.safe(text):gsub("[\t\n]", " ")
  if not utf8.len(text) then
    return (text:gsub("[\128-\255]", "?"))
  end
  return (text:gsub("\xe2\x80[\x8e\x8f\xaa-\xae]", "?"):gsub("\xe2\x81[\xa6-\xa9]", "?"):gsub("\xc2[\x80-\x9f]", "?"))
end

--- The columns that text takes: East Asian wide characters and emoji count twice.
-- @tparam string text UTF-8; colour sequences take none
-- @treturn integer
function M.width(text)
  text = text:gsub("\27%[[%d;]*m", "")
  if not utf8.len(text) then
    return #text
  end
  local n = 0
  for _, c in utf8.codes(text) do
    local wide = c >= 0x1100 and c <= 0x115f or c >= 0x2e80 and c <= 0xa4cf or c >= 0xac00 and c <= 0xd7a3
      or c >= 0xf900 and c <= 0xfaff or c >= 0xfe30 and c <= 0xfe6f or c >= 0xff00 and c <= 0xff60
      or c >= 0x1f300 and c <= 0x1faff or c == 0x26a1
    n = n + (wide and 2 or 1)
  end
  return n
end

local function pad(text, width)
  return text .. (" "):rep(width - M.width(text))
end

--- Prints rows in columns.
-- @tparam {string,...} header
-- @tparam {{string,...},...} rows
function M.columns(header, rows)
  local widths = {}
  for _, row in ipairs { header, table.unpack(rows) } do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, M.width(tostring(cell)))
    end
  end
  local function line(row, style)
    local cells = {}
    for i, cell in ipairs(row) do
      cells[i] = style(i < #row and pad(tostring(cell), widths[i]) or tostring(cell))
    end
    print(table.concat(cells, "  "))
  end
  line(header, M.dim)
  for _, row in ipairs(rows) do
    line(row, function(text)
      return text
    end)
  end
end

local measured

--- Columns of the terminal; 80 where there is none.
-- @treturn integer
function M.screen_width()
  if not measured then
    local pipe = unistd.isatty(1) == 1 and io.popen "stty size </dev/tty 2>/dev/null"
    measured = pipe and tonumber(pipe:read("a"):match "^%d+ (%d+)") or tonumber(os.getenv "COLUMNS") or 80
    if pipe then
      pipe:close()
    end
  end
  return math.max(40, measured)
end

local EIGHTHS = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

--- A bar: how much of a limit is used. What is used at all shows; red from nine tenths on, yellow from a half on.
-- @tparam number share 0 to 1
-- @tparam integer width columns
-- @tparam[opt] function paint another colour, as for what is to reach its end
-- @treturn string
function M.bar(share, width, paint)
  local filled = math.max(0, math.min(share, 1)) * width * 8
  filled = math.floor(share > 0 and math.max(filled, 1) or 0)
  local part = EIGHTHS[filled % 8] or ""
  local used = ("█"):rep(filled // 8) .. part
  paint = paint or share >= 0.9 and M.red or share >= 0.5 and M.yellow or M.green
  return paint(used) .. M.dim(("·"):rep(width - filled // 8 - (part ~= "" and 1 or 0)))
end

--- A count for a person: "950", "11.6 k", "10 M".
-- @tparam number n
-- @treturn string
function M.count(n)
  for _, unit in ipairs { "", " k", " M", " G" } do
    if n < 999.5 or unit == " G" then
      return (unit == "" and "%d" or n < 99.95 and n % 1 ~= 0 and "%.1f" or "%.0f"):format(n) .. unit
    end
    n = n / 1000
  end
end

--- Bytes for a person: "66.1 kB".
-- @tparam integer n
-- @treturn string
function M.size(n)
  if n < 1000 then
    return n .. " B"
  end
  for _, unit in ipairs { "kB", "MB", "GB" } do
    n = n / 1000
    if n < 999.5 or unit == "GB" then
      return ("%.1f %s"):format(n, unit)
    end
  end
end

--- Milliseconds for a person: "0.4 ms", "1.2 s".
-- @tparam number ms
-- @treturn string
function M.duration(ms)
  return ms < 1000 and ("%.1f ms"):format(ms) or ("%.2f s"):format(ms / 1000)
end

--- Breaks a text at blanks, so that it stands in a column of the screen.
-- @tparam string text
-- @tparam integer indent columns to the left of it
-- @treturn string
function M.wrap(text, indent)
  local most, lines, line = M.screen_width() - indent - 1, {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and M.width(line) + 1 + M.width(word) > most then
      lines[#lines + 1], line = line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n" .. (" "):rep(indent))
end

--- A label and its value, aligned with the others of a block.
-- @tparam string label
-- @tparam string value
function M.field(label, value)
  print(("  %s %s"):format(M.dim(pad(label, 13)), value))
end

return M
