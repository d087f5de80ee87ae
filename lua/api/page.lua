--- Pages of a list: where one ends is where the next begins, so that rows that come or go meanwhile shift nothing.
-- A cursor is the sort key of the last row, as JSON in base64url: opaque, but no secret. Row level security decides
-- what a page holds, so a made-up cursor gains nothing; what it holds is checked all the same.
-- @module api.page
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local schema = require "api.schema"

local M = {}

--- The parameters of a paged list, to be spread into a route's `params`.
function M.params(more)
  local params = more or {}
  params.limit, params.after = schema.limit(), schema.after()
  return params
end

local function read(cursor, patterns)
  local text = crypto.base64url_decode(cursor)
  local values = text and json.decode(text, { max_depth = 1 })
  if not json.is_array(values) or #values ~= #patterns then
    return nil
  end
  for i, pattern in ipairs(patterns) do
    if type(values[i]) ~= "string" or not values[i]:find(pattern) then
      return nil
    end
  end
  return values
end

M.TIME = "^%d%d%d%d%-%d%d%-%d%d[T ]%d%d:%d%d:%d%d[%d.]*[Z+:%d]*$"
M.UUID = "^" .. (("h8-h4-h4-h4-h12"):gsub("%-", "%%-"):gsub("h(%d+)", function(n)
  return ("%x"):rep(tonumber(n))
end)) .. "$"
M.INTEGER = "^%-?%d%d?%d?%d?%d?%d?%d?%d?%d?$"
M.NAME = "^[%w_.-]+$"

--- The sort key at which this page begins.
-- @tparam table call
-- @tparam {string,...} patterns a Lua pattern for each of its values
-- @treturn table values, empty for the first page; refuses a malformed cursor
function M.start(call, patterns)
  if not call.params.after then
    return {}
  end
  local values = read(call.params.after, patterns)
  if not values then
    call:refuse(400, "bad_parameter", "after: must be the value `next` of the page before", { details = "after" })
  end
  return values
end

--- The answer of a list. Ask for one row more than the limit: it tells whether there is a next page.
-- @tparam table call
-- @tparam table rows
-- @tparam function item makes an item of a row
-- @tparam function key makes the list of strings by which a row is sorted
-- @treturn integer status
-- @treturn table body {items, next}
function M.answer(call, rows, item, key)
  local items, last, count = json.array {}, nil, math.min(#rows, call.params.limit)
  for i = 1, count do
    items[i], last = item(rows[i]), rows[i]
  end
  local following = #rows > count and crypto.base64url_encode(assert(json.encode(json.array(key(last))))) or json.null
  return 200, { items = items, next = following }
end

--- The schema of such an answer.
-- @tparam table item schema of one item
-- @treturn table
function M.schema(item)
  return { type = "object", properties = { items = { type = "array", items = item },
    next = { type = "string", nullable = true, description = "`after` of the next page; null on the last." } } }
end

return M
