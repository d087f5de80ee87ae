--- The values of one bundle: what its placeholders see, what its container says, what the database keeps.
-- @module workflow.values
local json = require "atelier.json"
local uuid = require "uuid"

local M = {}

-- What a variable says when a licence never ends: a time, so that a tool may compare it like any other.
local NEVER = "9999-12-31T23:59:59Z"

-- Seconds only: the container's times have no fraction. Nil is never, and so are Postgres' infinity and the years after
-- 9999, which the container's four digits cannot write.
local function to_seconds(time)
  if time == nil or time == json.null or not time:find "^%d%d%d%d%-" then
    return nil
  end
  return (time:gsub("%.%d+Z$", "Z"))
end

--- What the template's placeholders may name: a new artifact each time.
-- @tparam table job a row of the claim
-- @tparam string key licence key
-- @treturn[1] table values by name
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "params"
function M.variables(job, key)
  local params = job.generation_params
  if params == nil or params == json.null then
    params = {}
  elseif type(params) ~= "table" or json.is_array(params) and #params > 0 then
    return nil, "generation_params: must be a JSON object", "params"
  end
  return {
    device_hash = job.device_hash,
    plan = job.plan_name,
    plan_tools = job.plan_tools,
    license_key = key,
    expires_at = to_seconds(job.license_expires_at) or NEVER,
    issued_at = os.date("!%Y-%m-%dT%H:%M:%SZ"),
    template = job.template_name,
    version = job.template_version,
    artifact_id = uuid.new(),
    params = params,
  }
end

--- What the container says of itself, in the clear.
-- @tparam table job
-- @tparam table vars what `variables` gave
-- @treturn table metadata, see ate.container
function M.metadata(job, vars)
  return {
    artifact_id = vars.artifact_id,
    template = vars.template,
    version = vars.version,
    plan = vars.plan,
    tools = vars.plan_tools,
    generation = job.generation,
    issued_at = vars.issued_at,
    expires_at = to_seconds(job.license_expires_at) or json.null,
  }
end

--- What is recorded of the values. The licence key is not: whoever may have it can derive it.
-- @tparam table job
-- @tparam table vars
-- @tparam string master_id which master key the licence key is of
-- @tparam string signer_id which key signed
-- @treturn table for `generated_variables`
function M.record(job, vars, master_id, signer_id)
  return {
    artifact_id = vars.artifact_id,
    device_hash = vars.device_hash,
    plan = vars.plan,
    plan_tools = vars.plan_tools,
    expires_at = vars.expires_at,
    issued_at = vars.issued_at,
    template = vars.template,
    version = vars.version,
    params = next(vars.params) and vars.params or nil,
    generation = job.generation,
    container = job.container,
    master_key_id = master_id,
    signer_id = job.container == "ate1" and signer_id or nil, -- a ZIP is not signed
  }
end

return M
