--- A build that raises is a defect of ours or of a script, or want of memory: the job fails, the worker goes on.
-- @module workflow.guarded
local log = require "log"

local M = {}

--- Runs a step of a build.
-- @tparam function step
-- @tparam table builder see workflow.generate
-- @param subject what the step is given
-- @tparam table job
-- @return what the step gives; nil, message, code where it raised
function M.run(step, builder, subject, job)
  local ok, result, message, code, verdict = xpcall(step, debug.traceback, builder, subject)
  if ok then
    return result, message, code, verdict
  end
  log.error("build raised", { queue_id = job.queue_id, reason = result })
  local first = tostring(result):match("^[^\n]*")
  return nil, "internal error: " .. first, first:find("not enough memory", 1, true) and "memory" or "internal"
end

return M
