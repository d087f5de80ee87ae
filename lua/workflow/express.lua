--- A customer who waits is not to wait for a batch, and one more: of a batch that has both, the urgent jobs are built
-- first, and completed as soon as the store has them all. Knows neither queue nor store.
-- @module workflow.express
local M = {}
local Express = {}
Express.__index = Express

local URGENT = 1 -- priority

--- A new one.
-- @treturn table express
function M.new()
  return setmetatable({}, Express)
end

--- The jobs of a batch in the order in which they are to be built.
-- @tparam table jobs
-- @treturn table
function Express:order(jobs)
  local ordered, others = {}, {}
  for _, job in ipairs(jobs) do
    table.insert(job.priority == URGENT and ordered or others, job)
  end
  self.left = #ordered > 0 and #others > 0 and #ordered or nil
  return table.move(others, 1, #others, #ordered + 1, ordered)
end

--- Notes that a job is built, or is not to be.
-- @tparam table job
function Express:note(job)
  if self.left and job.priority == URGENT then
    self.left = self.left - 1
  end
end

--- Whether it is time to complete what the store has; once for a batch.
-- @tparam {table,...} sent what is on its way, items with their job
-- @treturn boolean
function Express:is_due(sent)
  if self.left ~= 0 then
    return false
  end
  for _, item in ipairs(sent) do
    if item.job.priority == URGENT then
      return false
    end
  end
  self.left = nil
  return true
end

return M
