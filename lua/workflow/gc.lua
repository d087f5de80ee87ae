--- Reconciles store and rows at once, for an operator who does not wait for the keeper: the keeper's own sweep, run
-- through twice, since no object is deleted that was not met twice.
-- @module workflow.gc
local sweep = require "workflow.sweep"

local M = {}

local FIRST_ID = "00000000-0000-0000-0000-000000000000"

-- What would be done, or was: the keys, in the order in which they were met.
local function recorded(self, operation, into, dry_run)
  local act = self[operation]
  return function(_, rows)
    for _, row in ipairs(rows) do
      table.insert(into, row.file_path)
    end
    if dry_run then
      return #rows
    end
    return act(self, rows)
  end
end

--- Reconciles.
-- @tparam table options ask(sql, params) → rows | nil, message, code; store, config; dry_run; grace in seconds; force
--   (delete also where most objects have no row);
--   optional: on_progress(objects met), pause() between two pages
-- @treturn[1] table orphans (keys without a row that were, or would be, deleted), missing (keys of rows whose object is
--   not there or damaged; built anew, or would be), unfinished (number of temporary files removed), staging
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.run(options)
  local dry_run, pause = options.dry_run, options.pause or function() end
  local config = setmetatable({ orphan_grace = options.grace }, { __index = options.config })
  local self = sweep.new { store = options.store, config = config, ask = options.ask, batches = 1, settle = 0,
    force = options.force }
  local result = { orphans = {}, missing = {}, unfinished = 0, staging = 0 }
  self.remove = recorded(self, "remove", result.orphans, dry_run)
  self.renew = recorded(self, "renew", result.missing, dry_run)
  if dry_run then
    self.clear = function()
      return 0
    end
  end
  while self.pass < 3 do
    local count, cleared, code = self:orphans()
    if not count then
      return nil, cleared, code
    end
    result.unfinished = result.unfinished + cleared
    if options.on_progress then
      options.on_progress(self.known + self.unknown)
    end
    pause()
  end
  repeat
    local count, message, code = self:missing()
    if not count then
      return nil, message, code
    end
    pause()
  until self.looked_for == FIRST_ID
  result.staging = dry_run and 0 or self:staging()
  return result
end

return M
