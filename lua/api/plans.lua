--- What a customer can buy.
-- @module api.plans
local json = require "atelier.json"
local page = require "api.page"

local PLANS = [[select name, display_name, price_jpy, tools, max_devices, trial_days from public.plans
  where is_active and (price_jpy, name) > (coalesce($1::integer, -1), coalesce($2, ''))
  order by price_jpy, name limit $3::integer]]

local function item(row)
  return { name = row.name, display_name = row.display_name, price_jpy = row.price_jpy, tools = row.tools,
    max_devices = row.max_devices, trial_days = row.trial_days }
end

local function plans(call)
  local start = page.start(call, { page.INTEGER, "^[^%c]+$" })
  local rows = call:query("ate_plans", PLANS, { start[1] or json.null, start[2] or json.null,
    call.params.limit + 1 })
  return page.answer(call, rows, item, function(row)
    return { tostring(row.price_jpy), row.name }
  end)
end

local ITEM = { type = "object", properties = { name = { type = "string" }, display_name = { type = "string" },
  price_jpy = { type = "integer" }, tools = { type = "array", items = { type = "string" } },
  max_devices = { type = "integer" }, trial_days = { type = "integer" } } }

return {
  { method = "GET", path = "/api/ate/plans", operation = "listPlans", summary = "Lists the plans, by price",
    auth = "user", params = page.params(),
    responses = { [200] = { description = "A page", schema = page.schema(ITEM) } }, handler = plans },
}
