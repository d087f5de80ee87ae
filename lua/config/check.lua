--- What is wrong with a value of the configuration: its type, its range, its form.
--
-- A form belongs to a key (`form` in config.keys) and counts for each word of a list. Says what must be, with an
-- example, so that `config`, `serve` and a reload all refuse what would only fail later.
-- @module config.check
local addresses = require "addresses"

local M = {}

local SHORTEST_SECRET <const> = 16 -- RFC 7518 wants 32

local LOOPBACK = { ["localhost"] = true, ["[::1]"] = true }

-- Scheme, host and the rest of a web address without a name and password in it.
local function parts(url)
  local scheme, authority, rest = url:match "^(https?)://([^/?#%s%c]+)([^%s%c]*)$"
  local name, port = (authority or ""):match "^(%[[%x:.]+%])(.*)$"
  if not name then
    name, port = (authority or ""):match "^([%w._-]+)(.*)$"
  end
  local number = port and tonumber(port:match "^:(%d+)$")
  if not name or port ~= "" and not (number and number > 0 and number < 65536) then
    return nil
  end
  return scheme, name, rest
end

--- Whether keys may be fetched from there: nobody on the way may put others in their place.
-- @tparam string url
-- @treturn boolean
function M.is_private(url)
  local scheme, name = parts(url)
  return scheme == "https" or scheme == "http" and (LOOPBACK[name] or name:find "^127%.%d+%.%d+%.%d+$") ~= nil
end

local function is_url(value)
  local scheme, _, rest = parts(value)
  return scheme ~= nil and not rest:find "[?#]"
end

local FORMS = {
  template = { "1 to 64 characters of a-z 0-9 _ -, as in \"smartgram\"", function(value)
    return #value <= 64 and value:find "^[a-z0-9_-]+$"
  end },
  url = { "a web address, as in \"https://ref.supabase.co\"", is_url },
  server = { "a server's address, as in \"https://s3.example.com\"", function(value)
    return is_url(value) and value:find "^https?://[^/]+[%w._~/-]*$"
  end },
  keys = { "https, or http on this machine, as in \"https://id.example.com/jwks.json\"", function(value)
    return parts(value) and M.is_private(value)
  end },
  origin = { "an origin without a path, as in \"https://shop.example\", or \"*\"", function(value)
    local scheme, _, rest = parts(value)
    return value == "*" or scheme and (rest == "" or rest == "/")
  end },
  network = { "an address or a network, as in \"10.0.0.0/8\"", function(value)
    return addresses.networks { value } ~= nil
  end },
  secret = { ("%d characters or more (better 32)"):format(SHORTEST_SECRET), function(value)
    return #value >= SHORTEST_SECRET
  end },
}

local function fault_of_form(key, value)
  local form = FORMS[key.form]
  if not form or form[2](value) then
    return nil
  elseif key.secret then
    return "must have " .. form[1]
  end
  return ("must be %s, not %q"):format(form[1], value)
end

local function fault_of_number(key, value)
  if value ~= value or value <= 0 and not key.least then
    return "must be above 0"
  elseif value < (key.least or 0) or value > (key.most or math.maxinteger) then
    return ("must be %g to %g"):format(key.least or 1, key.most or math.maxinteger)
  end
end

local function fault_of_text(key, value)
  if key.choices then
    for _, choice in ipairs(key.choices) do
      if value == choice then
        return nil
      end
    end
    return ("must be one of %s, not %q"):format(table.concat(key.choices, ", "), value)
  elseif value:find("\0", 1, true) then
    return "has a NUL byte in it"
  elseif value == "" and key[3] ~= "" then
    return "is empty; leave it out where nothing is meant"
  end
  return fault_of_form(key, value)
end

local function fault_of_list(key, value)
  for _, word in ipairs(value) do
    local problem = fault_of_text(key, word)
    if problem then
      return problem
    end
  end
end

local function is_list(value)
  local count = 0
  for i, word in pairs(type(value) == "table" and value or {}) do
    count = count + 1
    if math.type(i) ~= "integer" or type(word) ~= "string" then
      return false
    end
  end
  return type(value) == "table" and count == #value
end

local function article(kind)
  return kind:find "^[aeiou]" and "an " .. kind or "a " .. kind
end

--- What is wrong with a value.
-- @tparam table key of config.keys
-- @param value
-- @treturn[1] nil when it is good
-- @treturn[2] string as in "must be above 0"
function M.fault(key, value)
  local kind = key[2]
  local fits = type(value) == kind or (kind == "integer" and math.type(value) == "integer")
    or (kind == "list" and is_list(value))
  if not fits then
    local found = key.secret and article(type(value)) or ("%q"):format(tostring(value))
    return ("must be %s, not %s"):format(article(kind), found)
  elseif type(value) == "number" then
    return fault_of_number(key, value)
  elseif type(value) == "string" then
    return fault_of_text(key, value)
  elseif kind == "list" then
    return fault_of_list(key, value)
  end
end

return M
