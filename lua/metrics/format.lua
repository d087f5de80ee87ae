--- Prometheus' text format 0.0.4: how names, labels and values are written, and how a written line is taken apart.
-- @module metrics.format
local M = {}

local ESCAPES = { ["\\"] = "\\\\", ["\n"] = "\\n", ['"'] = '\\"' }

-- The format is UTF-8; a file's name or a message need not be.
local function utf8_of(text)
  return utf8.len(text) and text or (text:gsub("[\128-\255]", "?"))
end

--- A value.
-- @tparam number value
-- @treturn string
function M.number(value)
  if value ~= value then
    return "NaN"
  elseif value == math.huge then
    return "+Inf"
  elseif value == -math.huge then
    return "-Inf"
  end
  return math.type(value) == "integer" and tostring(value) or ("%.14g"):format(value)
end

--- Label pairs, without braces.
-- @tparam {string,...} names
-- @tparam table values in the order of the names
-- @treturn string
function M.labels(names, values)
  local parts = {}
  for i, name in ipairs(names) do
    parts[i] = ('%s="%s"'):format(name, (utf8_of(tostring(values[i])):gsub('[\\\n"]', ESCAPES)))
  end
  return table.concat(parts, ",")
end

--- The two lines before a family's samples.
-- @tparam string name
-- @tparam string help
-- @tparam string kind "counter", "gauge" or "histogram"
-- @treturn string
function M.head(name, help, kind)
  return ("# HELP %s %s\n# TYPE %s %s"):format(name, utf8_of(help):gsub("[\\\n]", ESCAPES), name, kind)
end

--- A sample's line.
-- @tparam string name
-- @tparam string labels as of `labels`
-- @tparam number value
-- @treturn string
function M.sample(name, labels, value)
  return labels == "" and ("%s %s"):format(name, M.number(value)) or ("%s{%s} %s"):format(name, labels, M.number(value))
end

-- The text between braces, when it is nothing but label pairs.
local function labels_are_sound(text)
  local from = 1
  while true do
    local _, to = text:find('^[%a_][%w_]*="', from)
    if not to then
      return false
    end
    repeat -- to the quote that no backslash escapes
      to = text:find('["\\\n]', to + 1)
      local c = to and text:sub(to, to)
      if c == "\\" then
        to = text:find('^["\\n]', to + 1)
      end
    until c ~= "\\" or not to
    if not to or text:sub(to, to) ~= '"' then
      return false
    elseif to == #text then
      return true
    elseif text:sub(to + 1, to + 1) ~= "," then
      return false
    end
    from = to + 2
  end
end

--- Takes a sample's line apart.
-- @tparam string line
-- @treturn[1] string name
-- @treturn[1] string labels without braces
-- @treturn[1] string value
-- @treturn[2] nil when it is none
function M.parse(line)
  local name, rest = line:match "^([%a_:][%w_:]*)(.*)$"
  if not name then
    return nil
  end
  local labels, value = "", rest:match "^ (%S+)$"
  if rest:sub(1, 1) == "{" then
    labels, value = rest:match "^{(.*)} (%S+)$"
    if not labels or not labels_are_sound(labels) then
      return nil
    end
  end
  local is_special = value == "NaN" or value == "+Inf" or value == "-Inf"
  if value and (is_special or value:match "^[-+%d.e]+$" and tonumber(value)) then
    return name, labels, value
  end
end

return M
