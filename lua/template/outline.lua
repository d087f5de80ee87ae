--- Where things stand in a JSON text: the offset of each key and value, by path. For texts that a strict reader has
-- taken already: of a text that is no JSON it tells what it can.
-- @module template.outline

local M = {}

local walk

local function string_end(text, at)
  at = at + 1
  while true do
    local stop = text:find('["\\]', at)
    if not stop then return #text end
    if text:byte(stop) == 34 then return stop end
    at = stop + 2
  end
end

local function skip(text, at) return text:find("[^ \t\r\n]", at) or #text + 1 end

-- Members of a list or an object; `member` handles one and gives the position behind it.
local function members(text, at, close, member)
  at = skip(text, at + 1)
  local count = 0
  while at <= #text and text:sub(at, at) ~= close do
    count = count + 1
    at = skip(text, member(at, count))
    if text:sub(at, at) == "," then at = skip(text, at + 1) end
  end
  return at + 1
end

function walk(text, at, path, found, depth)
  found.values[path] = at
  local sign = text:sub(at, at)
  if sign == '"' then return string_end(text, at) + 1 end
  if sign == "[" and depth < 100 then
    return members(text, at, "]", function(from, i)
      return walk(text, from, ("%s[%d]"):format(path, i), found, depth + 1)
    end)
  elseif sign == "{" and depth < 100 then
    return members(text, at, "}", function(from)
      local stop = string_end(text, from)
      local key = (path == "" and "" or path .. ".") .. text:sub(from + 1, stop - 1)
      found.keys[key] = from
      return walk(text, skip(text, skip(text, stop + 1) + 1), key, found, depth + 1)
    end)
  end
  return text:find("[%s,%]}]", at + 1) or #text + 1
end

--- Reads the outline.
-- @tparam string text JSON
-- @treturn table `{keys, values}`: offsets by path, such as "file_structure[2].tool"; escapes in keys stay as written
function M.read(text)
  local found = { keys = {}, values = {} }
  walk(text, skip(text, 1), "", found, 0)
  return found
end

return M
