local explain = require "template.explain"
local folder = require "cli.template.folder"
local json = require "atelier.json"
local plans = require "plans"
local session = require "cli.session"
local term = require "cli.term"

local M = {
  example = "atelier template explain --device DEMO-PRO-001\natelier template explain --plan pro",
}

function M.options(parser)
  parser:mutex(
    parser:option("--device", "The device's hash: its plan as the database has it."):argname "H",
    parser:option("--plan", "A plan's name, without a database: its tools as this program knows them."):argname "P")
  parser:option("--template", "A template's name, or a folder NAME.at.", "smartgram"):argname "T"
end

local DEVICE = [[select e.plan_name, e.plan_tools, e.entitled, coalesce(e.reason, '') as reason,
    coalesce(s.plan_id, '') as plan_id
  from devices d cross join lateral ate_entitlement(array[d.id]) e left join subscriptions s on s.device_id = d.id
  where d.device_hash = $1]]
local PUBLISHED = "select version, file_structure from ate_templates where name = $1 and is_active"

-- Why the device has this plan, where that is not plain.
local function plan_reason(row)
  if row.plan_id == "" then
    return "no subscription: the least plan"
  elseif row.plan_id ~= row.plan_name then
    return ("the subscription's plan_id %s stands for it"):format(row.plan_id)
  end
  return "the subscription's"
end

local function explain_device(args, s)
  local conn = s.database
  local rows, message, code = conn:query(DEVICE, { args.device })
  if not rows then
    return nil, message, code
  elseif not rows[1] then
    return nil, ("template explain: device %s: unknown"):format(args.device), "unknown_device"
  end
  local device = rows[1]
  local found
  if args.template:find("/", 1, true) then
    found, message, code = folder.load(args.template)
  else
    rows, message, code = conn:query(PUBLISHED, { args.template })
    found = rows and rows[1]
    if rows and not found then
      message, code = ("template explain: template %s: not published"):format(args.template), "unknown_template"
    end
  end
  if not found then
    return nil, message, code
  end
  local result = explain.run(found.file_structure, device.plan_tools)
  result.device, result.plan, result.tools = args.device, device.plan_name, json.array(device.plan_tools)
  result.version, result.plan_reason = found.version, plan_reason(device)
  result.entitled, result.reason = device.entitled, device.reason ~= "" and device.reason or nil
  return result
end

local function explain_plan(args)
  local known, names = nil, {}
  for _, plan in ipairs(plans.defaults) do
    known = plan.name == args.plan and plan or known
    names[#names + 1] = plan.name
  end
  if not known then
    return nil, ("template explain: plan %s: unknown here; there are %s"):format(args.plan, table.concat(names, ", ")),
      "unknown_plan"
  end
  local dir, message, code = folder.find(args.template)
  if not dir then
    return nil, message, code
  end
  local found
  found, message, code = folder.load(dir)
  if not found then
    return nil, message, code
  end
  local result = explain.run(found.file_structure, known.tools)
  result.plan, result.tools, result.version = known.name, json.array(known.tools), found.version
  return result
end

function M.run(args)
  local result, message, code
  if args.device then
    result, message, code = session.with(function(s)
      return explain_device(args, s)
    end)
  elseif args.plan then
    result, message, code = explain_plan(args)
  else
    return nil, "template explain: --device H or --plan P is needed", "usage"
  end
  if result then
    result.template = args.template
    result.warnings = {}
    for i, tool in ipairs(result.unknown) do
      result.warnings[i] = { code = "unknown_tool", message = ("the plan names the tool %s, which neither the template "
        .. "nor the rules know: it has no effect"):format(tool) }
    end
  end
  return result, message, code
end

function M.show(result)
  if result.device then
    print(term.bold(term.safe(result.device)) .. "  " .. (result.entitled and term.green "entitled"
      or term.red("not entitled: " .. (result.reason or "?"))))
  end
  term.field("plan", term.safe(result.plan) .. (result.plan_reason and term.dim("  " .. result.plan_reason) or ""))
  term.field("template", term.safe(("%s %s"):format(result.template, result.version)))
  print()
  local rows = {}
  for i, f in ipairs(result.files) do
    rows[i] = { f.included and term.green "in" or term.dim "out", term.safe(f.file), f.required and "required" or "",
      term.safe(f.reason) .. (f.source and term.dim("  " .. f.source) or "") }
  end
  term.columns({ "", "file", "", "rule" }, rows)
  print()
  term.field("capabilities", #result.capabilities > 0 and table.concat(result.capabilities, ", ") or "none")
end

return M
