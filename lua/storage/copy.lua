--- Copies all objects of one store into another: page by page, several at a time, each one verified; what is there
-- already is left. It may be ended and begun again at any time, while workers run. It ends by itself when a store is
-- out of order for one object after the other.
-- @module storage.copy
local crypto = require "atelier.crypto"
local hashes = require "storage.hash"
local pour = require "storage.pour"
local storage = require "storage"
local verdict = require "storage.verdict"

local M = {}
local Copy = {}
Copy.__index = Copy

local AT_ONCE = 8
local PROBE = "generated/atelier-probe" -- whether this is there does not matter
local IN_MEMORY = 1 << 20 -- bytes; larger objects go through a file on this host

local OUTAGES = 10 -- objects in a row that fail for a store's sake, each after tries of its own

local function failed(self, key, message, code)
  self.counts.failed = self.counts.failed + 1
  table.insert(self.failures, { key = key, message = message })
  self.has_failed[key] = true
  self.outages = verdict.is_stores(code) and self.outages + 1 or 0
  if self.outages == OUTAGES then
    self.broken = { message = message, code = code }
  end
end

local function present(self)
  self.counts.present, self.outages = self.counts.present + 1, 0
  self.on_progress(self.counts)
end

-- What is said when it ends by itself.
local function stopped(self)
  return nil, ("storage copy: stopped, since %d objects in a row failed (%d copied, %d there already); the last: %s; "
    .. "begin it again when that is mended: what is there is left"):format(OUTAGES, self.counts.copied,
    self.counts.present, self.broken.message), self.broken.code
end

-- Removes the file of a large object that did not go on: a store that took it has it no more.
local function clean(source)
  if type(source) == "string" then
    os.remove(source)
  end
end

-- The object's bytes as a list, or the path of a file that has them; its hash; or nil, message, code.
local function read_object(self, entry)
  local source, message, code = self.from:get(entry.key)
  if not source then
    return nil, message, code
  end
  local from <close>, hash, parts = source, crypto.hash(), {}
  local ok
  if entry.size <= IN_MEMORY then
    ok, message, code = pour.pour(from, function(data)
      hash:update(data)
      parts[#parts + 1] = data
      return true
    end)
    return ok and parts, ok and crypto.hex(hash:digest()) or message, code
  end
  self.number = self.number + 1
  local path = storage.draft(self.to:staging(), "copy-" .. self.number)
  ok, message, code = pour.into_file(from, path, function(data)
    hash:update(data)
  end)
  return ok and path, ok and crypto.hex(hash:digest()) or message, code
end

-- What the database says of an object is what its customer will check: bytes that are others are not carried on.
local function is_expected(self, key, hash)
  local wanted = self.checksums and self.checksums(key)
  return not wanted or wanted == hash
end

-- What is there already, with the right size. Where the store keeps no hash, as on a disk, its bytes are read, if it is
-- known what they should be: nobody else would notice.
local function begin_present(self, entry, found)
  local sha256 = found.sha256
  if not sha256 and self.checksums and self.checksums(entry.key) then
    local message, code
    sha256, message, code = hashes.of(self.to, entry.key)
    if not sha256 then
      return failed(self, entry.key, message, code)
    end
  end
  if sha256 and not is_expected(self, entry.key, sha256) then
    return failed(self, entry.key, "is there with other bytes than those recorded (SHA-256 " .. sha256 .. ")")
  end
  return present(self)
end

local function begin_one(self, entry)
  local found, message, code = self.to:head(entry.key)
  if found and found.size == entry.size then
    return begin_present(self, entry, found)
  elseif found then
    return failed(self, entry.key, ("is there with %d bytes instead of %d"):format(found.size, entry.size))
  elseif code ~= "not_found" and code ~= "no_bucket" then -- the first put may make the bucket
    return failed(self, entry.key, message, code)
  end
  local source, hash, why = read_object(self, entry)
  if not source then
    return failed(self, entry.key, hash, why)
  elseif not is_expected(self, entry.key, hash) then
    clean(source)
    return failed(self, entry.key, "its bytes are not those that were recorded (SHA-256 " .. hash .. ")")
  end
  local ticket
  ticket, message, code = self.to:put(entry.key, source, { sha256 = hash })
  if ticket then
    table.insert(self.flying, { ticket = ticket, entry = entry, source = source })
  else
    clean(source)
    failed(self, entry.key, message, code)
  end
end

local function finish_one(self)
  local item = table.remove(self.flying, 1)
  local ok, message, code = self.to:wait(item.ticket, 3600)
  clean(item.source)
  if ok then
    self.counts.copied, self.outages = self.counts.copied + 1, 0
    self.counts.bytes = self.counts.bytes + item.entry.size
  elseif code == "exists" then
    present(self) -- somebody else was first
  else
    failed(self, item.entry.key, message, code)
  end
  self.on_progress(self.counts)
end

local function finish_flying(self, most)
  while #self.flying > most do
    finish_one(self)
  end
end

-- Nothing to copy: a store may say that of a bucket that is not there.
local function list_nothing(self)
  local _, message, code = self.from:head(PROBE)
  if code == "no_bucket" then
    return nil, message, code
  end
  return {}
end

-- Tells whether a store has a key. It is asked for keys in their order, and walks its list along with them: however
-- many there are, no more than a page of them is kept.
local function walk_along(store, prefix)
  local page, at, after, is_over = {}, 1, nil, false
  return function(key)
    while not is_over and not (page[at] and page[at].key >= key) do
      at = at + 1
      if at > #page then
        local entries, message, code = store:list(prefix, after)
        if not entries and code ~= "no_bucket" then
          return nil, message, code
        end
        page, at = entries or {}, 1
        is_over = page[1] == nil
        after = not is_over and page[#page].key
      end
    end
    return not is_over and page[at].key == key
  end
end

-- A key that is recorded, and whether it is there: else it came meanwhile, or is missing.
local function look_for(self, key, is_there)
  if is_there or self.has_failed[key] then
    return
  end
  local found, message, code = self.from:head(key)
  if not found then
    return failed(self, key, "is recorded, but not to be had: " .. message, code)
  end
  begin_one(self, { key = key, size = found.size })
  finish_flying(self, AT_ONCE - 1)
end

-- Whether all that is recorded went over.
local function look_for_recorded(self, recorded, has)
  local after
  finish_flying(self, 0)
  repeat
    local keys, message, code = recorded(after)
    if not keys then
      return nil, message, code
    end
    for _, key in ipairs(keys) do
      local is_there
      is_there, message, code = has(key)
      if is_there == nil then
        return nil, message, code
      end
      look_for(self, key, is_there)
      if self.broken then
        return true
      end
    end
    after = keys[#keys]
  until not after
  return true
end

-- Copies what the one store lists. Gives nil, message, code when it cannot be listed.
local function copy_listed(self, prefix)
  local after
  repeat
    local entries, message, code = self.from:list(prefix, after)
    if entries and not entries[1] and not after then
      entries, message, code = list_nothing(self)
    end
    if not entries then
      return nil, message, code
    end
    for _, entry in ipairs(entries) do
      begin_one(self, entry)
      finish_flying(self, AT_ONCE - 1)
      if self.broken then
        return true
      end
    end
    after = entries[1] and entries[#entries].key
  until not after
  return true
end

--- Copies.
-- @tparam table options `from`, `to` (stores); `checksums(key)` → the recorded SHA-256 in hex or nil;
--   `recorded(after)` → keys that must be there, a page in the order of the keys; `on_progress(counts)`;
--   `prefix` ("generated/")
-- @treturn[1] table counts: copied, present, failed (objects), bytes copied
-- @treturn[1] table list of {key, message} of those that failed
-- @return[2] nil: the objects cannot be listed, or a store is out of order
-- @treturn[2] string message
-- @treturn[2] string code
function M.run(options)
  local self = setmetatable({ from = options.from, to = options.to, checksums = options.checksums, number = 0,
    on_progress = options.on_progress or function() end, flying = {}, failures = {}, has_failed = {}, outages = 0,
    counts = { copied = 0, present = 0, failed = 0, bytes = 0 } }, Copy)
  local prefix = options.prefix or "generated/"
  local ok, message, code = copy_listed(self, prefix)
  if ok and options.recorded and not self.broken then
    ok, message, code = look_for_recorded(self, options.recorded, walk_along(self.to, prefix))
  end
  finish_flying(self, 0)
  if self.broken then
    return stopped(self)
  elseif not ok then
    return nil, message, code
  end
  return self.counts, self.failures
end

return M
