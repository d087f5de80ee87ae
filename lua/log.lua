--- Log lines on standard error: for a person by default, JSON when asked.
--
-- A line is one write of at most LONGEST bytes, so that lines of several processes never mix in a pipe. It names its
-- process (ATELIER_PROCESS). What belongs to all lines of a request or a job is bound once, to a logger that is handed
-- on: `local log = log.with { request = id }`, then `log:info("…")`. There is no current context that could be
-- somebody else's.
--
-- Callers pass ids, never secrets. As a last net, what looks like a token, a password or a licence key is hidden.
-- @module log
local json = require "atelier.json"
local stdlib = require "posix.stdlib"
local time = require "posix.time"
local unistd = require "posix.unistd"

local M = {}
local Logger = {}
Logger.__index = Logger

local LEVELS = { debug = 1, info = 2, warn = 3, error = 4 }
local LONGEST = 4096 -- PIPE_BUF: what a pipe takes whole or not at all
local OWN = { time = true, level = true, event = true, from = true, pid = true }

local settings = { level = LEVELS.info, format = "text", out = io.stderr }

--- Sets what is written and how.
-- @tparam table options level = "debug"|"info"|"warn"|"error", format = "text"|"json", out = file,
--   process = the name in each line (default: ATELIER_PROCESS, or none)
function M.configure(options)
  settings.level = LEVELS[options.level or "info"]
    or error("log level '" .. tostring(options.level) .. "' is unknown", 2)
  settings.format = options.format or "text"
  settings.out = options.out or io.stderr
  settings.out:setvbuf "no" -- each write is one write(2)
  settings.process = options.process
end

--- Whether lines of a level are written: for callers to whom making one costs much.
-- @tparam string level
-- @treturn boolean
function M.is_on(level)
  return LEVELS[level] >= settings.level
end

-- ==== what a line may hold ====

local SECRET_NAMES = { password = true, secret = true, token = true, authorization = true, license_key = true,
  licence_key = true, licence = true, license = true, key_material = true, cookie = true, jwt = true }

local function any_case(word)
  return (word:gsub("%a", function(c)
    return ("[%s%s]"):format(c:upper(), c)
  end))
end

local GROUP = ("[%w]"):rep(5)
-- A plain text without which there is no match, in lower case; the pattern; what stands in its place.
local SECRETS = {
  { "authorization", any_case "authorization" .. "[\"']?%s*[:=]%s*[\"']?%a*%s*[^%s\"',]+", "Authorization: [hidden]" },
  { "bearer", any_case "bearer" .. "%s+[^%s\"',]+", "Bearer [hidden]" },
  { "eyj", "eyJ[%w_-]+%.?[%w_-]*%.?[%w_-]*", "[hidden token]" },
  { "-", "%f[%w]" .. (GROUP .. "%-"):rep(4) .. GROUP .. "%f[^%w]", "[hidden key]" },
  { "link=", "([?&]link=)[^&%s\"']+", "%1[hidden]" },
  { "://", "(://[^:/@%s]*:)[^@%s]*@", "%1[hidden]@" },
  { "password", "(" .. any_case "password" .. "%s*=%s*)'[^']*'", "%1[hidden]" },
  { "password", "(" .. any_case "password" .. "%s*=%s*)[^%s'\"&[]+", "%1[hidden]" },
  { "sb_secret_", "sb_secret_[%w_-]+", "[hidden key]" },
}

local function without_secrets(text)
  local lower = #text >= 8 and text:lower() or ""
  for _, rule in ipairs(SECRETS) do
    if lower:find(rule[1], 1, true) then
      text = text:gsub(rule[2], rule[3])
    end
  end
  return text
end

local function visible(bytes)
  return (bytes:gsub(".", function(c)
    return ("\\x%02x"):format(c:byte())
  end))
end

-- One line, whatever the text holds: control characters would forge lines or drive the terminal. A file's name may be
-- any bytes; JSON may not, and would lose the whole line.
local function plain(value)
  local text = without_secrets(tostring(value))
  if not text:find "[%c\127-\255]" then
    return text
  end
  if utf8.len(text) then
    return (text:gsub("[%c\127]", visible):gsub("\xc2[\x80-\x9f]", visible)) -- U+009B begins a command as ESC [ does
  end
  return (text:gsub("[%c\127-\255]", visible))
end

-- What JSON has a type of its own for; it has none for infinity.
local function is_itself(value)
  return type(value) == "number" and value == value and math.abs(value) ~= math.huge or type(value) == "boolean"
    or value == json.null
end

-- Names to plain texts, numbers, booleans and null; of the logger's fields and the line's, the line's count.
local function clean(bound, fields)
  local all = {}
  for _, set in ipairs { bound or {}, fields or {} } do
    for name, value in pairs(set) do
      name = plain(name)
      if SECRET_NAMES[name:lower()] then
        value = "[hidden]"
      end
      all[OWN[name] and name .. "_" or name] = is_itself(value) and value or value ~= false and plain(value)
    end
  end
  return all
end

-- ==== a line ====

local function now()
  local t = time.clock_gettime(time.CLOCK_REALTIME)
  return ("%s.%03dZ"):format(os.date("!%Y-%m-%dT%H:%M:%S", t.tv_sec), t.tv_nsec // 1000000)
end

local function process()
  return settings.process or stdlib.getenv "ATELIER_PROCESS"
end

local function as_text(level, event, fields)
  local parts, names = { now(), level }, {}
  if process() then
    parts[3] = plain(process()) .. ":"
  end
  parts[#parts + 1] = event
  for name in pairs(fields) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    parts[#parts + 1] = name .. "=" .. (fields[name] == json.null and "null" or tostring(fields[name]))
  end
  return table.concat(parts, " ")
end

local function as_json(level, event, fields)
  local line = { time = now(), level = level, event = event, pid = unistd.getpid() }
  line.from = process() and plain(process()) or nil
  for name, value in pairs(fields) do
    line[name] = value
  end
  return assert(json.encode(line))
end

-- Takes `excess` bytes and room for the mark off the end of a text, and no character in half.
local function shorten(text, excess)
  local kept = text:sub(1, math.max(#text // 2, #text - excess - 8)) -- escapes count more than once in the excess
  return kept:gsub("[\xC2-\xF4]?[\x80-\xBF]*$", "") .. "…"
end

-- Too long: the longest field pays, then the next.
local function fit(format, level, event, fields)
  local line = format(level, event, fields)
  for _ = 1, 20 do
    if #line < LONGEST then
      return line
    end
    local longest
    for name, value in pairs(fields) do
      if type(value) == "string" and #value > 16 and (not longest or #value > #fields[longest]) then
        longest = name
      end
    end
    if not longest then
      break
    end
    fields[longest] = shorten(fields[longest], #line - LONGEST)
    line = format(level, event, fields)
  end
  if #line < LONGEST then
    return line
  end
  return format(level, #event > 500 and shorten(event, #event - 500) or event, { shortened = "fields left out" })
end

local function write(level, event, bound, fields)
  if LEVELS[level] >= settings.level then
    local format = settings.format == "json" and as_json or as_text
    settings.out:write(fit(format, level, plain(event), clean(bound, fields)) .. "\n")
  end
end

-- ==== callers ====

for level in pairs(LEVELS) do
  --- `log.debug|info|warn|error(event, fields)`: writes one line.
  -- @tparam string event what happened, in a few words
  -- @tparam[opt] table fields names to plain values; ids, never secrets
  M[level] = function(event, fields)
    write(level, event, nil, fields)
  end

  -- logger:debug|info|warn|error(event, fields)
  Logger[level] = function(self, event, fields)
    write(level, event, self.fields, fields)
  end
end

--- A logger whose lines all have these fields.
-- @tparam table fields as of `log.info`
-- @treturn table logger, with the methods debug, info, warn, error and with
function M.with(fields)
  return setmetatable({ fields = fields }, Logger)
end

--- A logger with this one's fields and more.
-- @function logger:with
-- @tparam table fields
-- @treturn table logger
function Logger:with(fields)
  local all = {}
  for _, set in ipairs { self.fields, fields } do
    for name, value in pairs(set) do
      all[name] = value
    end
  end
  return M.with(all)
end

return M
