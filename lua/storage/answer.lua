--- What a store's answers say of time, and of the bytes that they bring.
-- @module storage.answer
local M = {}

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

-- Seconds of a date in a head (RFC 9110, section 5.6.7), as `os.time` counts them.
local function seconds_of(text)
  local d, mo, y, h, mi, s = (text or ""):match "(%d+) (%a+) (%d+) (%d+):(%d+):(%d+)"
  return MONTHS[mo] and os.time { year = y, month = MONTHS[mo], day = d, hour = h, min = mi, sec = s, isdst = false }
end

-- The store's clock.
local function now(headers)
  return seconds_of(headers.date) or os.time(os.date "!*t")
end

--- How old something is by the store's own clock, which an answer's Date tells (RFC 9110, section 6.6.1).
-- @tparam string time ISO 8601, UTC
-- @tparam table headers
-- @treturn number seconds; 0 when the time is not known: what is young is not deleted
function M.age(time, headers)
  local y, mo, d, h, mi, s = tostring(time):match "^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)"
  if not y then
    return 0
  end
  return now(headers) - os.time { year = y, month = mo, day = d, hour = h, min = mi, sec = s, isdst = false }
end

--- By how much the store's clock is ahead of this host's.
-- @tparam table headers of an answer just come
-- @treturn number|nil seconds; below 0: it is behind
function M.ahead(headers)
  local time = seconds_of(headers.date)
  return time and os.difftime(time, os.time(os.date "!*t")) or nil
end

--- Seconds that a Retry-After asks for (RFC 9110, section 10.2.3).
-- @tparam table headers
-- @treturn number|nil
function M.patience(headers)
  local value = headers["retry-after"]
  if not value then
    return nil
  end
  local seconds = value:match "^%d+$" and tonumber(value)
  local date = not seconds and seconds_of(value)
  return seconds or date and math.max(date - now(headers), 0) or nil
end

--- The most bytes that are taken of an answer that should bring a piece.
M.MOST = 16 << 20

--- The bytes that were asked for. A server, or what is before it, may know no ranges, and sends all there is (RFC 9110,
-- section 14.2): of small objects they are found in that. Others than those are none.
-- @tparam table response
-- @tparam integer from first byte
-- @tparam integer to last byte
-- @treturn string bytes
-- @treturn ?string entity tag
-- @treturn ?integer size of the whole, where it is told
function M.piece(response, from, to)
  local body = response.body or ""
  if response.status == 206 then
    local range = response.headers["content-range"] or ""
    local first = tonumber(range:match "^bytes (%d+)")
    return (first or from) == from and body or "", response.headers.etag, tonumber(range:match "/(%d+)$")
  end
  return body:sub(from + 1, to + 1), response.headers.etag, #body
end

return M
