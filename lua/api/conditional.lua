--- Which part of a file a request gets: conditions and ranges as of RFC 9110, sections 13 and 14.
--
-- One range is served. Several in one request are answered with the whole file, as section 14.2 allows, unless none of
-- them lies in the file: then it is 416. What is no valid range header is as good as none. There are no dates: a
-- condition on one never holds. Knows no file and no server.
-- @module api.conditional
local M = {}

-- Without blanks around it; nil when nothing is left. In two steps, so that 16 KB of blanks do not take a second: one
-- pattern for both ends would try each blank as the start.
local function trim(text)
  local from = text:find "[^ \t]"
  return from and text:match("^.*[^ \t]", from)
end

-- A tag that is a list's member, taken from its start: `"…"` or `W/"…"`, then a comma or the end.
local function next_tag(list, at)
  local weak, tag, behind = list:match('^[ \t,]*(W?/?)("[\x21\x23-\x7e\x80-\xff]*")[ \t]*()', at)
  if not tag or weak ~= "" and weak ~= "W/" then return nil end
  local rest = list:sub(behind, behind)
  if rest ~= "" and rest ~= "," then return nil end
  return tag, weak == "W/", behind
end

-- Whether a list of tags names this one; a weak tag is as good as a strong one only if `weak_will_do`.
local function names(list, etag, weak_will_do)
  if trim(list) == "*" then return true end
  local at = 1
  while at <= #list do
    local tag, is_weak, behind = next_tag(list, at)
    if not tag then return false end
    if tag == etag and (weak_will_do or not is_weak) then return true end
    at = behind
  end
  return false
end

-- Digits beyond any file's size are one and the same.
local function position(digits)
  return #digits:gsub("^0+", "") > 18 and math.maxinteger or math.tointeger(digits)
end

-- One range-spec → first and last byte; false when it is valid and outside; nil when it is no range at all.
local function read_spec(spec, size)
  local first, last = spec:match "^(%d*)%-(%d*)$"
  if not first or first == "" and last == "" then
    return nil
  elseif first == "" then
    local count = math.min(position(last), size)
    if count == 0 then return false end
    return size - count, size - 1
  end
  first, last = position(first), last ~= "" and position(last) or math.maxinteger
  if last < first then return nil end
  if first >= size then return false end
  return first, math.min(last, size - 1)
end

-- The value of Range → "whole", "none" (nothing of it lies in the file), or "part" with first and last byte.
local function read_range(value, size)
  local unit, set = (trim(value) or ""):match "^([^=]*)=(.*)$"
  if not unit or unit:lower() ~= "bytes" then return "whole" end
  local count, good, first, last = 0, 0, nil, nil
  for member in set:gmatch "[^,]+" do
    local spec = trim(member)
    if spec then
      local from, to = read_spec(spec, size)
      if from == nil then return "whole" end
      count = count + 1
      if from then
        good, first, last = good + 1, from, to
      end
    end
  end
  if count == 0 or good > 0 and count > 1 then
    return "whole"
  elseif good == 0 then
    return "none"
  end
  return "part", first, last
end

--- Decides.
-- @tparam string method "GET" or "HEAD", for which ranges mean nothing
-- @tparam table headers the request's, names in lower case
-- @tparam string etag the file's strong tag, with its quotes
-- @tparam integer size the file's
-- @treturn integer status 200, 206, 304 (the client has it), 412 or 416
-- @treturn[opt] integer offset of the first byte to be sent, with 200 and 206
-- @treturn[opt] integer length
function M.decide(method, headers, etag, size)
  local wanted, held, range, if_range = headers["if-match"], headers["if-none-match"], headers.range,
    headers["if-range"]
  if wanted and not names(wanted, etag, false) then
    return 412
  elseif held and names(held, etag, true) then
    return 304
  elseif method ~= "GET" or not range or if_range and trim(if_range) ~= etag then
    return 200, 0, size
  end
  local kind, first, last = read_range(range, size)
  if kind == "none" then
    return 416
  elseif kind == "whole" then
    return 200, 0, size
  end
  return 206, first, last - first + 1
end

return M
