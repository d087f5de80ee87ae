--- Deletes the bytes of former versions, and of files that have expired, when their grace is over.
--
-- Owns the order that makes a crash harmless: the bytes go first, then the row says so. What was deleted and not yet
-- marked is deleted once more the next time, which the store takes well. Knows no schedule.
-- @module workflow.purge
local breaker = require "workflow.breaker"
local log = require "log"
local pg = require "atelier.pg"

local M = {}
local Purge = {}
Purge.__index = Purge

local SHARE = 100 -- objects that are deleted at once: a remote store may take its time for each
local RESISTANT_LIMIT = 10 -- so many in one share, and it is the store that resists

local PURGEABLE = "select version_id::text as id, file_path from list_ate_purge($1, $2::interval)"
local PURGED = "select mark_ate_purged($1::uuid[])"
local EXPIRED = [[select ate_file_id::text as id, file_path, expires_at::text as expires_at
  from list_ate_expired($1, $2::interval, $3::timestamptz)]]
local EMPTIED = "select mark_ate_files_purged($1::uuid[], $2::text[])"

--- A new purge.
-- @tparam table options store, config; ask(sql, params) → rows | nil, message, code; batch (rows at once), batches (how
--   often in a call)
-- @treturn table purge
function M.new(options)
  return setmetatable({
    store = options.store,
    config = options.config,
    ask = options.ask,
    batch = options.batch,
    batches = options.batches,
    ended = "-infinity", -- expired files before this are seen to
  }, Purge)
end

--- A column of rows, as a parameter.
-- @tparam table rows
-- @tparam string name
-- @return array
function M.column(rows, name)
  local values = {}
  for i, row in ipairs(rows) do
    values[i] = row[name]
  end
  return pg.array(values)
end

local function seconds(n)
  return ("%.3f seconds"):format(n)
end

--- Rows in shares, of which one at a time is deleted.
-- @tparam table rows
-- @treturn function iterator
function M.shares(rows)
  local first = 1
  return function()
    local share = table.move(rows, first, math.min(first + SHARE - 1, #rows), 1, {})
    first = first + SHARE
    return share[1] and share
  end
end

--- Deletes the objects of rows, which should be a share. One that resists does not keep the others.
-- @tparam table store
-- @tparam table rows each with a file_path
-- @treturn table those whose object is gone
-- @treturn ?string message when the store seems to be out of order
-- @treturn ?string code
function M.delete(store, rows)
  local keys = {}
  for i, row in ipairs(rows) do
    keys[i] = row.file_path
  end
  local deleted, problem, why = store:delete(keys)
  if deleted then
    return rows
  elseif why == "timeout" or breaker.is_outage(why) then
    return {}, problem, why
  end
  local gone, resistant = {}, 0
  for _, row in ipairs(rows) do
    local ok, message, code = store:delete { row.file_path }
    if ok or code == "bad_key" then -- such a key was never stored
      gone[#gone + 1] = row
    else
      resistant = resistant + 1
      log.warn("object not deleted", { key = row.file_path, reason = message, code = code })
      if resistant == RESISTANT_LIMIT then
        return gone, message, code
      end
    end
  end
  return gone
end

-- Deletes a share and marks it before the next: each statement is the keeper's sign of life, too.
function Purge:delete(rows, sql, ...)
  local count = 0
  for share in M.shares(rows) do
    local gone, problem, why = M.delete(self.store, share)
    if #gone > 0 then
      local columns = {}
      for i, name in ipairs { ... } do
        columns[i] = M.column(gone, name)
      end
      local marked, message, code = self.ask(sql, columns)
      if not marked then
        return nil, message, code
      end
    end
    count = count + #gone
    if problem then
      return nil, problem, why
    end
  end
  return count
end

--- Deletes the bytes of former versions whose grace is over.
-- @treturn[1] integer number
-- @treturn[1] boolean whether there may be more
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Purge:versions()
  local count = 0
  for _ = 1, self.batches do
    local rows, message, code = self.ask(PURGEABLE, { self.batch, seconds(self.config.version_grace) })
    if not rows then
      return nil, message, code
    end
    local gone
    gone, message, code = self:delete(rows, PURGED, "id")
    if not gone then
      return nil, message, code
    end
    count = count + gone
    if gone < self.batch then
      return count, false
    end
  end
  return count, true
end

--- Deletes the bytes of expired files whose grace is over. Their rows stay: a renewal builds them anew.
-- @treturn[1] integer number
-- @treturn[1] boolean whether there may be more
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Purge:expired()
  local count = 0
  for _ = 1, self.batches do
    local rows, message, code = self.ask(EXPIRED, { self.batch, seconds(self.config.version_grace), self.ended })
    if not rows then
      return nil, message, code
    end
    local gone
    gone, message, code = self:delete(rows, EMPTIED, "id", "file_path")
    if not gone then
      return nil, message, code
    end
    count = count + gone
    if #rows == 0 then
      self.ended = "-infinity" -- what resisted, or expired behind us, is met the next time
      return count, false
    end
    self.ended = rows[#rows].expires_at
    if gone < self.batch then
      return count, false
    end
  end
  return count, true
end

return M
