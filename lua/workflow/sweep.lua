--- Reconciles the store with the rows, both ways and a page at a time: objects that no row names, rows whose object is
-- not there, and what dead writers left.
--
-- Owns the caution before an object is deleted. Where it stands, and which objects it has met without a row, is in
-- memory: a new keeper begins anew. Knows no schedule.
-- @module workflow.sweep
local clock = require "clock"
local hash = require "storage.hash"
local json = require "atelier.json"
local log = require "log"
local pg = require "atelier.pg"
local purge = require "workflow.purge"
local staging = require "workflow.staging"
local storage = require "storage"

local M = {}
local Sweep = {}
Sweep.__index = Sweep

local OBJECTS = "generated/" -- nothing else in the store is ours
-- An object is there before its row is. However old the store's clock makes it, it is met twice, so far apart.
local SETTLE_SECONDS = 600
local SUSPECTS_LIMIT = 50000
-- So many objects without a row, and hardly any with one, are rather the files of another database.
local FOREIGN_LEAST, FOREIGN_PARTS = 100, 10

local HEADS_A_TURN = 20

local UNKNOWN = "select path from list_ate_unknown($1::text[], $2) as path"
local FILES = [[select id::text as id, file_path, file_size_bytes as size, checksum from ate_files
  where id > $1::uuid and is_active and purged_path is distinct from file_path order by id limit $2]]
local MISSING = [[select ate_file_id::text as id, device_hash, queue_id::text as queue_id, reason
  from renew_ate_missing($1::uuid[], $2::text[])]]
local FIRST_ID = "00000000-0000-0000-0000-000000000000"

--- A new sweep.
-- @tparam table options store, config; ask(sql, params) → rows | nil, message, code; batches (pages of the store in a
--   call); optional: heads (files looked for in a call, 200), settle (seconds between two looks, 600), force (delete
--   also where most objects have no row), on_turn() (called now and then amid what takes long), on_lost(id, reason)
--   (called for each file without its object; with a reason when it is not built anew), on_read(bytes) (its presence
--   has the bytes of each file read and their hash compared; called for each piece)
-- @treturn table sweep
function M.new(options)
  return setmetatable({
    store = options.store,
    config = options.config,
    ask = options.ask,
    batches = options.batches,
    heads = options.heads or 200,
    settle = options.settle or SETTLE_SECONDS,
    force = options.force,
    on_turn = options.on_turn or function() end,
    on_lost = options.on_lost or function() end,
    on_read = options.on_read,
    verified = 0, -- files whose bytes were read
    looked_for = FIRST_ID, -- files up to this are
    suspects = {}, -- objects without a row: key → {met first at, in which pass, met last in which pass}
    suspect_count = 0,
    pass = 1,
    known = 0,
    unknown = 0,
  }, Sweep)
end

-- ==== objects without a row ====

-- Whether nothing but a wrong database explains what the last whole pass met.
function Sweep:is_foreign()
  local last = self.last
  return last.unknown > FOREIGN_LEAST and last.known < last.unknown / FOREIGN_PARTS
end

-- Notes an object without a row; true when it is old enough to go, by the store's clock or by ours, and was met before.
function Sweep:is_ripe(key, age, now)
  local suspect = self.suspects[key]
  if suspect then
    suspect.last = self.pass
  elseif self.suspect_count < SUSPECTS_LIMIT then
    suspect = { since = now, first = self.pass, last = self.pass }
    self.suspects[key] = suspect
    self.suspect_count = self.suspect_count + 1
  end
  local met_for = suspect and now - suspect.since or 0
  return suspect and self.last and suspect.first < self.pass and met_for >= self.settle
    and math.max(age, met_for) >= self.config.orphan_grace
end

function Sweep:remove(rows)
  local count = 0
  for share in purge.shares(rows) do
    local gone, problem, why = purge.delete(self.store, share)
    for _, row in ipairs(gone) do
      log.debug("orphan deleted", { key = row.file_path })
      self:forget(row.file_path)
    end
    if problem then
      return nil, problem, why
    end
    count = count + #gone
    self.on_turn()
  end
  return count
end

function Sweep:forget(key)
  if self.suspects[key] then
    self.suspects[key] = nil
    self.suspect_count = self.suspect_count - 1
  end
end

-- Of these keys, those that no row names. Most are found by their device at once; for the others all rows are walked.
function Sweep:unnamed(keys)
  local rows, message, code = {}, nil, nil
  for _, exact in ipairs { false, true } do
    if rows and #keys > 0 then
      rows, message, code = self.ask(UNKNOWN, { pg.array(keys), exact })
      keys = {}
      for i, row in ipairs(rows or {}) do
        keys[i] = row.path
      end
    end
  end
  return rows and keys, message, code
end

-- One page of the store. What has no name of ours is not ours.
function Sweep:look(entries)
  local keys, ages = {}, {}
  for _, entry in ipairs(entries) do
    keys[#keys + 1] = storage.is_safe(entry.key) and entry.key or nil
    ages[entry.key] = entry.age or 0
  end
  local unnamed, message, code = self:unnamed(keys)
  if not unnamed then
    return nil, message, code
  end
  self.known, self.unknown = self.known + #keys - #unnamed, self.unknown + #unnamed
  local ripe, now = {}, clock.now()
  for _, key in ipairs(unnamed) do
    if self:is_ripe(key, ages[key], now) then
      ripe[#ripe + 1] = { file_path = key }
    end
  end
  if #ripe > 0 and not self.force and self:is_foreign() then
    self.warned = self.warned or log.error("most objects have no row: is this the database that they belong to?",
      { objects = self.last.known + self.last.unknown, without_row = self.last.unknown }) or true
    return 0
  end
  return self:remove(ripe)
end

-- The whole store was seen: what was not met again is gone, or has its row by now.
function Sweep:end_pass()
  for key, suspect in pairs(self.suspects) do
    if suspect.last < self.pass then
      self:forget(key)
    end
  end
  self.last = { known = self.known, unknown = self.unknown }
  self.pass, self.known, self.unknown, self.cursor, self.warned = self.pass + 1, 0, 0, nil, nil
end

function Sweep:clear(unfinished)
  return self.store:clear(unfinished, self.config.orphan_grace)
end

--- Looks at the next pages of the store: deletes objects that no row names, and temporary files of dead writers, when
-- the grace for orphans is over.
-- @treturn[1] integer number of objects deleted
-- @treturn[1] integer number of temporary files removed
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Sweep:orphans()
  local count, cleared = 0, 0
  for _ = 1, self.batches do
    local entries, unfinished, code = self.store:list(OBJECTS, self.cursor)
    if not entries then
      return nil, unfinished, code
    elseif unfinished and #unfinished > 0 then
      cleared = cleared + (self:clear(unfinished) or 0)
    end
    if #entries == 0 then
      self:end_pass()
      break
    end
    local removed, message, why = self:look(entries)
    if not removed then
      return nil, message, why
    end
    count, self.cursor = count + removed, entries[#entries].key
  end
  return count, cleared
end

-- ==== rows without an object ====

-- Queues what is lost anew, for devices that are entitled.
function Sweep:renew(lost)
  local rows, message, code = self.ask(MISSING, { purge.column(lost, "id"), purge.column(lost, "file_path") })
  for _, row in ipairs(rows or {}) do
    log.warn("object missing", { device = row.device_hash, queue_id = row.queue_id ~= json.null and row.queue_id or nil,
      not_built = row.reason ~= json.null and row.reason or nil })
    self.on_lost(row.id, row.reason ~= json.null and row.reason or nil)
  end
  return rows and #rows, message, code
end

-- Another size, or another hash where the store knows it: nobody could open what is there.
local function is_damaged(found, row)
  return found.size ~= row.size or found.sha256 ~= nil and found.sha256 ~= row.checksum
end

-- What a read may end with that tells of this object alone.
local OF_OBJECT = { not_found = true, corrupt = true, unreadable = true }

-- Whether the bytes are those that were recorded; nil, message, code when that cannot be known now.
function Sweep:verify(row)
  local found, message, code = hash.of(self.store, row.file_path, self.on_read)
  if found and found ~= row.checksum or code == "corrupt" then -- perhaps they changed on the way
    found, message, code = hash.of(self.store, row.file_path)
  end
  if not found and not OF_OBJECT[code] then
    return nil, message, code
  end
  self.verified = self.verified + 1
  if found ~= row.checksum then
    log.warn("object damaged", { key = row.file_path, reason = message or "its bytes have SHA-256 " .. found })
  end
  return found == row.checksum
end

-- Whether the object of a row is there, and is the file as far as that is asked for; nil, message, code as of `verify`.
function Sweep:is_whole(row)
  local found, message, code = self.store:head(row.file_path)
  if not found and code ~= "not_found" and code ~= "bad_key" then
    return nil, message, code
  elseif not found or is_damaged(found, row) then
    return false
  end
  if self.on_read then
    return self:verify(row)
  end
  return true
end

--- Looks for the objects of the next files: what is missing or damaged is built anew for a device that is entitled.
-- @treturn[1] integer number of files without their object
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Sweep:missing()
  local rows, message, code = self.ask(FILES, { self.looked_for, self.heads })
  if not rows then
    return nil, message, code
  end
  local lost = {}
  for i, row in ipairs(rows) do
    if i % HEADS_A_TURN == 0 then
      self.on_turn()
    end
    local is_whole, problem, why = self:is_whole(row)
    if is_whole == nil then
      return nil, problem, why
    elseif not is_whole then
      lost[#lost + 1] = row
    end
  end
  self.looked_for = #rows == self.heads and rows[#rows].id or FIRST_ID
  if #lost == 0 then
    return 0
  end
  return self:renew(lost)
end

--- Removes the folders of dead workers, on this host at once and else after the grace.
-- @treturn integer number
function Sweep:staging()
  local root = self.store:staging()
  return root and staging.sweep(root, self.config.orphan_grace) or 0
end

return M
