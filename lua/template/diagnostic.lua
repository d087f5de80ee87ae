--- What is wrong with a template text, and where: `file:line:column: message`, the line, a caret, what to do.
-- Owns positions and their form; knows nothing of placeholders or lexers. A position is a byte offset, counted
-- from 1; lines end as Lua's own lexer ends them; columns count characters, so that editors find them.
-- @module template.diagnostic

local M = {}

local EXCERPT = 100 -- characters of a long line that are shown around the caret

-- Bytes of the line end at `pos` (LF, CR, or a pair of both), or nil.
local function line_end(text, pos)
  local first = text:byte(pos)
  if first ~= 10 and first ~= 13 then return nil end
  local second = text:byte(pos + 1)
  if (second == 10 or second == 13) and second ~= first then return 2 end
  return 1
end

--- Where a byte offset is.
-- @tparam string text
-- @tparam integer pos from 1 to `#text + 1`
-- @treturn integer line
-- @treturn integer column, in characters (bytes that are no UTF-8 count as one each)
-- @treturn integer offset of the line's first byte
-- @treturn string the line, without its end
function M.locate(text, pos)
  local line, start, at = 1, 1, 1
  while true do
    at = text:find("[\r\n]", at)
    if not at or at >= pos then break end
    at = at + line_end(text, at)
    if at > pos then break end
    line, start = line + 1, at
  end
  local stop = (text:find("[\r\n]", start) or #text + 1) - 1
  local before = text:sub(start, pos - 1)
  return line, (utf8.len(before) or #before) + 1, start, text:sub(start, stop)
end

--- The byte offset where a line begins.
-- @tparam string text
-- @tparam integer line
-- @treturn integer offset, at most `#text + 1`
function M.line_start(text, line)
  local start = 1
  for _ = 2, line do
    local at = text:find("[\r\n]", start)
    if not at then return #text + 1 end
    start = at + line_end(text, at)
  end
  return start
end

-- East Asian characters and emoji take two cells of a terminal; a caret must be moved by as much.
local function cells(code)
  local wide = code >= 0x1100 and (code <= 0x115F or (code >= 0x2E80 and code <= 0xA4CF)
    or (code >= 0xAC00 and code <= 0xD7A3) or (code >= 0xF900 and code <= 0xFAFF) or (code >= 0xFE30 and code <= 0xFE6F)
    or (code >= 0xFF00 and code <= 0xFF60) or (code >= 0x1F300 and code <= 0x1FAFF) or code >= 0x20000)
  return wide and 2 or 1
end

-- Splits a line into displayable characters; control characters must not reach a terminal.
local function characters(line)
  local list = {}
  if utf8.len(line) then
    for _, code in utf8.codes(line) do
      local control = code < 0x20 or (code >= 0x7F and code < 0xA0) or code == 0x2028 or code == 0x2029
        or (code >= 0x202A and code <= 0x202E) or (code >= 0x2066 and code <= 0x2069)
      local shown = control and (code == 9 and "\t" or "?") or utf8.char(code)
      list[#list + 1] = { text = shown, pad = code == 9 and "\t" or (" "):rep(cells(code)) }
    end
  else
    for byte in line:gmatch("[\0-\255]") do
      local shown = byte:find("[^\t -~]") and "?" or byte
      list[#list + 1] = { text = shown, pad = byte == "\t" and "\t" or " " }
    end
  end
  return list
end

local function excerpt(line, column, width)
  local chars = characters(line)
  local first = math.max(1, column - EXCERPT // 2)
  local last = math.min(#chars, first + EXCERPT - 1)
  local shown, pad = {}, {}
  for i = first, last do
    shown[#shown + 1] = chars[i].text
    if i < column then pad[#pad + 1] = chars[i].pad end
  end
  local lead = first > 1 and "..." or ""
  local caret = "^" .. ("~"):rep(math.max(0, math.min(width, last - column + 1) - 1))
  return lead .. table.concat(shown) .. (last < #chars and "..." or ""), (" "):rep(#lead) .. table.concat(pad) .. caret
end

--- One diagnosis as text.
-- @tparam table d `{message, pos, length?, hint?}`
-- @tparam string text what `pos` counts in
-- @tparam string file its name, for the reader
-- @treturn string several lines, without a final line end
function M.format(d, text, file)
  local line, column, _, source = M.locate(text, d.pos)
  local shown, caret = excerpt(source, column, d.length or 1)
  local out = { ("%s:%d:%d: %s"):format(file, line, column, d.message), "  " .. shown, "  " .. caret }
  if d.hint then out[#out + 1] = "  " .. d.hint end
  return table.concat(out, "\n")
end

--- Several diagnoses, in the order of the text.
-- @tparam table list of diagnoses
-- @tparam string text
-- @tparam string file
-- @treturn string
function M.report(list, text, file)
  table.sort(list, function(a, b) return a.pos < b.pos end)
  local out = {}
  for i = 1, math.min(#list, 20) do out[i] = M.format(list[i], text, file) end
  if #list > 20 then out[21] = ("%s: and %d more"):format(file, #list - 20) end
  return table.concat(out, "\n")
end

return M
