--- Log lines on standard error: for a person by default, JSON when asked. Never holds a secret: callers pass ids.
-- @module log
local json = require "atelier.json"

local M = {}

local LEVELS = { debug = 1, info = 2, warn = 3, error = 4 }
local settings = { level = LEVELS.info, format = "text", out = io.stderr }

--- Sets what is written and how.
-- @tparam table options level = "debug"|"info"|"warn"|"error", format = "text"|"json", out = file
function M.configure(options)
  settings.level = LEVELS[options.level or "info"]
    or error("log level '" .. tostring(options.level) .. "' is unknown", 2)
  settings.format = options.format or "text"
  settings.out = options.out or io.stderr
end

-- One line, whatever the text holds: control characters would forge lines or drive the terminal. A file's name may be
-- any bytes; JSON may not, and would lose the whole line.
local function plain(value)
  local text = tostring(value)
  return (text:gsub(utf8.len(text) and "[%c\127]" or "[%c\127-\255]", function(c)
    return ("\\x%02x"):format(c:byte())
  end))
end

local function as_text(level, event, fields)
  local parts = { os.date("!%Y-%m-%dT%H:%M:%SZ"), level, plain(event) }
  local names = {}
  for name in pairs(fields or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    parts[#parts + 1] = name .. "=" .. plain(fields[name])
  end
  return table.concat(parts, " ")
end

local function as_json(level, event, fields)
  local line = { time = os.date("!%Y-%m-%dT%H:%M:%SZ"), level = level, event = plain(event) }
  for name, value in pairs(fields or {}) do
    line[name] = type(value) == "number" and json.encode(value) and value or plain(value)
  end
  return assert(json.encode(line))
end

local function write(level, event, fields)
  if LEVELS[level] >= settings.level then
    local format = settings.format == "json" and as_json or as_text
    settings.out:write(format(level, event, fields), "\n")
  end
end

for level in pairs(LEVELS) do
  --- `log.debug|info|warn|error(event, fields)`: writes one line.
  -- @tparam string event what happened, in a few words
  -- @tparam[opt] table fields names to plain values; ids, never secrets
  M[level] = function(event, fields)
    write(level, event, fields)
  end
end

return M
