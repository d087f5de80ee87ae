--- What the heads of a store's answers say of time.
-- @module storage.answer
local M = {}

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

--- How old something is by the store's own clock, which an answer's Date tells (RFC 9110, section 6.6.1).
-- @tparam string time ISO 8601, UTC
-- @tparam table headers
-- @treturn number seconds; 0 when the time is not known: what is young is not deleted
function M.age(time, headers)
  local y, mo, d, h, mi, s = tostring(time):match "^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)"
  if not y then
    return 0
  end
  local made = os.time { year = y, month = mo, day = d, hour = h, min = mi, sec = s, isdst = false }
  d, mo, y, h, mi, s = (headers.date or ""):match "(%d+) (%a+) (%d+) (%d+):(%d+):(%d+)"
  local now = MONTHS[mo] and os.time { year = y, month = MONTHS[mo], day = d, hour = h, min = mi, sec = s,
    isdst = false } or os.time(os.date "!*t")
  return now - made
end

--- Seconds that a Retry-After asks for (RFC 9110, section 10.2.3); a date is taken as a minute.
-- @tparam table headers
-- @treturn number|nil
function M.patience(headers)
  local value = headers["retry-after"]
  return value and (tonumber(value) or 60)
end

return M
