--- Builds a made-up device's bundle of each template and plan, and throws it away: before a new generation of scripts
-- gets real jobs to build, which would fail for good. Knows no queue; stores nothing.
-- @module workflow.dry_run
local failure = require "workflow.failure"
local generate = require "workflow.generate"
local json = require "atelier.json"
local log = require "log"
local sample = require "template.sample"

local M = {}

local MOST = 24 -- pairs of template and plan: those of a vendor with many take no longer
local PAIRS = [[select t.name as template_name, t.version as template_version, t.template_path, t.content_sha256,
    t.container, p.name as plan_name, p.tools as plan_tools
  from ate_templates t cross join plans p
  where t.is_active and p.is_active order by t.updated_at desc, t.name, p.price_jpy limit $1]]

local function made_up(builder, pair)
  local loaded, message, code = builder.stock:get(pair)
  local compiled = loaded
  if loaded then
    compiled, message = loaded:compile_all()
    code = "template"
  end
  if not compiled then
    return nil, message, code
  end
  local plan = { name = pair.plan_name, tools = pair.plan_tools }
  return setmetatable({
    device_hash = "SAMPLE-001", device_id = "00000000-0000-4000-8000-000000000001", generation = 1,
    license_expires_at = json.null, generation_params = sample.vars(loaded, plan).params,
  }, { __index = pair })
end

-- All that a worker does, but for what a store takes: a file of gigabytes is not made for a trial.
local function build(builder, pair)
  local job, message, code = made_up(builder, pair)
  if not job then
    return nil, message, code
  end
  local begun
  begun, message, code = builder:prepare(job)
  if begun and begun.prepared.streamed then
    begun.run, message, code = builder.checker:begin(begun.prepared, begun.vars)
  elseif begun then
    begun, message, code = builder:begin(job)
  end
  if not begun or begun.run == nil then
    return nil, message, code
  end
  local verdict
  verdict, message, code = builder.checker:finish(begun.run)
  return verdict ~= nil, message, code
end

-- What a trial says of scripts and limits. A template that this host cannot have now is nobody's fault.
local function judge(builder, pair, found)
  local called, ok, message, code = xpcall(build, debug.traceback, builder, pair)
  if not called then
    return nil, ok:match "^[^\n]*"
  elseif code == "runtime" then
    return nil, message
  elseif ok then
    found.built = found.built + 1
  elseif not failure.is_transient(code) then
    found.reason = found.reason or message
  end
  if not ok then
    log.warn("no bundle can be built", { template = pair.template_name, plan = pair.plan_name, reason = message,
      code = code })
  end
  return true
end

--- Tries each active template with each active plan. One template that cannot be built stands in nobody's way: perhaps
-- its values are too special to be made up. A script that fails does, and where nothing at all can be built.
-- @tparam table options conn, config, ring (key ring)
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] ?string code of the database
function M.run(options)
  local pairs_of, message, code = options.conn:query(PAIRS, { MOST })
  if not pairs_of then
    return nil, message, code
  end
  local builder = generate.new { config = options.config, ring = options.ring }
  local found = { built = 0 }
  for _, pair in ipairs(pairs_of) do
    local ok, reason = judge(builder, pair, found)
    if not ok then
      return nil, ("dry run of template %s, plan %s: %s"):format(pair.template_name, pair.plan_name, reason)
    end
  end
  if found.built == 0 and found.reason then
    return nil, "dry run: no bundle can be built: " .. found.reason
  end
  return true
end

return M
