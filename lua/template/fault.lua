--- Faults as data: what compilers, loaders and the manifest's reader say in text, taken apart into file, line, column,
-- message, excerpt and hint, so that they can be merged, sorted, counted and printed in one form.
-- Knows the forms of `template.diagnostic` and `template.manifest`; finds no faults itself.
-- @module template.fault

local diagnostic = require "template.diagnostic"
local outline = require "template.outline"

local M = {}

local MANIFEST <const> = "template.json"

-- The head line of a fault. A file's name holds no colon (see `manifest.check_name`).
local function head(line)
  local file, number, column, message = line:match("^([^:]+):(%d+):(%d+): (.*)$")
  if file then return { file = file, line = tonumber(number), column = tonumber(column), message = message } end
  file, number, message = line:match("^([^:]+):(%d+): (.*)$")
  if file then return { file = file, line = tonumber(number), message = message } end
  file, message = line:match("^([^:%s][^:]*): (.*)$")
  if file then return { file = file, message = message } end
  return { message = line }
end

-- Indented lines belong to the fault above: the source line, the caret, and what to do.
local function body(fault, lines)
  if lines[2] and lines[2]:find("^%s*[.]*%s*%^") then
    fault.excerpt = { lines[1], lines[2] }
    fault.hint = lines[3] and lines[3]:match("^%s*(.*)$")
  elseif lines[1] then
    fault.hint = table.concat(lines, "\n"):match("^%s*(.*)$")
  end
  return fault
end

--- Takes a diagnosis apart.
-- @tparam string text faults, each one line and indented ones below it
-- @tparam[opt] string prefix that the first line may begin with, such as the operation's name
-- @treturn table list of `{file?, line?, column?, message, excerpt?, hint?}`
function M.parse(text, prefix)
  if prefix and text:sub(1, #prefix) == prefix then text = text:sub(#prefix + 1) end
  local faults, indented = {}, {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    if line:find("^  ") and faults[1] then
      indented[#indented + 1] = line:sub(3)
    elseif line ~= "" then
      if faults[1] then body(faults[#faults], indented) end
      indented, faults[#faults + 1] = {}, head(line)
    end
  end
  if faults[1] then body(faults[#faults], indented) end
  return faults
end

-- The key or value of the manifest that a complaint is about: "file_structure[3] (main.lua): type: …".
local function manifest_place(message, places)
  local where = message:match("^([%w_]+%[%d+%])") or ""
  local rest = message:gsub("^[%w_]+%[%d+%]%s*", ""):gsub("^%b()", ""):gsub("^: ", "")
  local inside = where ~= "" and where .. "." or ""
  local unknown = rest:match('^unknown key "(.*)" %(known')
  if unknown and places.keys[inside .. unknown] then return places.keys[inside .. unknown], #unknown + 2 end
  local key = rest:match("^([%w_]+)[: ]")
  local at = key and places.values[inside .. key]
  return at or places.values[where] or 1, 1
end

--- Gives complaints about the manifest their places in its text.
-- @tparam table faults of `parse`; those of the manifest are changed
-- @tparam string text the manifest
-- @treturn table faults
function M.locate(faults, text)
  local places
  for _, fault in ipairs(faults) do
    if fault.file == MANIFEST and not fault.line then
      local line, column, reason = fault.message:match("^(%d+):(%d+): (.*)$")
      places = places or outline.read(text)
      local pos, length
      if line then
        pos, length = diagnostic.line_start(text, tonumber(line)) + tonumber(column) - 1, 1
        fault.message = reason
      else
        pos, length = manifest_place(fault.message, places)
      end
      M.at(fault, text, pos, length)
    end
  end
  return faults
end

--- Gives one fault a place.
-- @tparam table fault with `file` and `message`
-- @tparam string text of its file
-- @tparam integer pos
-- @tparam[opt=1] integer length
-- @treturn table fault
function M.at(fault, text, pos, length)
  local shown = diagnostic.format({ message = "", pos = math.min(pos, #text + 1), length = length }, text, "x")
  local parsed = M.parse(shown)[1]
  fault.line, fault.column, fault.excerpt = parsed.line, parsed.column, parsed.excerpt
  return fault
end

--- Gives a fault of which the line alone is known that line of the text, without a caret.
-- @tparam table fault with `line`
-- @tparam string text of its file
-- @treturn table fault
function M.show_line(fault, text)
  local start = diagnostic.line_start(text, fault.line)
  if start > #text then return fault end
  local _, column = text:find("^[ \t]*", start)
  local parsed = M.parse(diagnostic.format({ message = "", pos = math.min(column + 1, #text + 1) }, text, "x"))[1]
  fault.excerpt = { parsed.excerpt[1] }
  return fault
end

--- One fault as text.
-- @tparam table fault
-- @treturn string several lines, without a final line end
function M.format(fault)
  local place = fault.file or ""
  if fault.line then place = place .. ":" .. fault.line end
  if fault.column then place = place .. ":" .. fault.column end
  local out = { place ~= "" and place .. ": " .. fault.message or fault.message }
  for _, line in ipairs(fault.excerpt or {}) do out[#out + 1] = "  " .. line end
  if fault.hint then out[#out + 1] = "  " .. fault.hint:gsub("\n", "\n  ") end
  return table.concat(out, "\n")
end

local function before(a, b)
  local x, y = a.file or "", b.file or ""
  if x ~= y then return x == MANIFEST or (y ~= MANIFEST and x < y) end
  if a.line ~= b.line then return (a.line or 0) < (b.line or 0) end
  if a.column ~= b.column then return (a.column or 0) < (b.column or 0) end
  return a.message < b.message
end

--- Text with each byte that is no UTF-8 as \xNN: names of files and hostile values hold such, and JSON does not.
-- @tparam string text
-- @treturn string
function M.plain(text)
  local out, from = {}, 1
  while true do
    local length, bad = utf8.len(text, from)
    if length then break end
    out[#out + 1] = text:sub(from, bad - 1) .. ("\\x%02x"):format(text:byte(bad))
    from = bad + 1
  end
  return from == 1 and text or table.concat(out) .. text:sub(from)
end

--- A list that holds each fault once; `plan`s of equal faults are gathered in `plans`.
-- @treturn table set with `set:add(faults[, plan])` and `set:list()`, which is sorted: the manifest first
function M.set()
  local set, list, known = {}, {}, {}
  function set.add(_, faults, plan)
    for _, fault in ipairs(faults) do
      for _, field in ipairs { "file", "message", "hint" } do
        fault[field] = fault[field] and M.plain(fault[field])
      end
      for i, line in ipairs(fault.excerpt or {}) do fault.excerpt[i] = M.plain(line) end
      local key = M.format(fault)
      local same = known[key]
      if not same then
        same = fault
        known[key], list[#list + 1] = fault, fault
      end
      if plan then
        same.plans = same.plans or {}
        table.insert(same.plans, plan)
      end
    end
  end
  function set.list()
    table.sort(list, before)
    return list
  end
  return set
end

return M
