--- Reconciles store and rows at once, for an operator who does not wait for the keeper: the keeper's own sweep, run
-- through twice, since no object is deleted that was not met twice.
-- @module workflow.gc
local json = require "atelier.json"
local purge = require "workflow.purge"
local sweep = require "workflow.sweep"

local M = {}

local FIRST_ID = "00000000-0000-0000-0000-000000000000"

-- As renew_ate_missing judges, without doing anything.
local JUDGED = [[select f.id::text as id, case when not t.is_active then 'template_inactive' else e.reason end as reason
  from unnest($1::uuid[], $2::text[]) x (id, path)
    join ate_files f on f.id = x.id and f.file_path = x.path
    join ate_templates t on t.id = f.template_id
    cross join lateral ate_entitlement(array[f.device_id]) e]]

-- What would be done, or was: the keys, in the order in which they were met.
local function recorded(self, operation, into, paths, instead)
  local act = instead or self[operation]
  return function(_, rows)
    for _, row in ipairs(rows) do
      table.insert(into, row.file_path)
      paths[row.id or row.file_path] = row.file_path
    end
    return act(self, rows)
  end
end

-- Requests that a page with deletions is taken for: some stores have one for each object, some one for all.
local OF_DELETION = 200

-- Counts the files that are looked for, from one call to the next.
local function counted_looks(self)
  local looks, is_whole = 0, self.is_whole
  self.is_whole = function(...)
    looks = looks + 1
    return is_whole(...)
  end
  return function()
    local count = looks
    looks = 0
    return count
  end
end

local function remove_nothing(_, rows)
  return #rows
end

local function renew_nothing(self, lost)
  local rows, message, code = self.ask(JUDGED, { purge.column(lost, "id"), purge.column(lost, "file_path") })
  for _, row in ipairs(rows or {}) do
    self.on_lost(row.id, row.reason ~= json.null and row.reason or nil)
  end
  return rows and #rows, message, code
end

--- Reconciles.
-- @tparam table options ask(sql, params) → rows | nil, message, code; store, config; dry_run; grace in seconds; force
--   (delete also where most objects have no row);
--   optional: on_progress(objects met, files read), pause(requests) between two pages, on_read(bytes) (its presence
--   has the bytes of each file read and their hash compared; called for each piece)
-- @treturn[1] table orphans (keys without a row that were, or would be, deleted), missing (keys of rows whose object is
--   not there or damaged), of these requeued (keys: built anew, or would be) and not_entitled (list of {key, reason}:
--   their devices may not have them), unfinished (number of temporary files removed), staging, verified (number of
--   files whose bytes were read)
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.run(options)
  local dry_run, pause = options.dry_run, options.pause or function() end
  local config = setmetatable({ orphan_grace = options.grace }, { __index = options.config })
  local result = { orphans = {}, missing = {}, requeued = {}, not_entitled = {}, unfinished = 0, staging = 0 }
  local paths = {}
  local self = sweep.new { store = options.store, config = config, ask = options.ask, batches = 1, settle = 0,
    force = options.force, on_read = options.on_read, on_lost = function(id, reason)
      table.insert(reason and result.not_entitled or result.requeued,
        reason and { key = paths[id], reason = reason } or paths[id])
    end }
  self.remove = recorded(self, "remove", result.orphans, {}, dry_run and remove_nothing)
  self.renew = recorded(self, "renew", result.missing, paths, dry_run and renew_nothing)
  if dry_run then
    self.clear = function()
      return 0
    end
  end
  local met = 0
  local function tell()
    if options.on_progress then
      options.on_progress(met, self.verified)
    end
  end
  self.on_turn = tell
  while self.pass < 3 do
    local count, cleared, code = self:orphans()
    if not count then
      return nil, cleared, code
    end
    result.unfinished = result.unfinished + cleared
    met = math.max(met, self.known + self.unknown)
    tell()
    pause((dry_run or count == 0) and 1 or OF_DELETION)
  end
  local looks = counted_looks(self)
  repeat
    local count, message, code = self:missing()
    if not count then
      return nil, message, code
    end
    pause(looks())
  until self.looked_for == FIRST_ID
  result.verified = self.verified
  result.staging = dry_run and 0 or self:staging()
  return result
end

return M
