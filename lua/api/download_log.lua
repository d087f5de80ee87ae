--- Writes down what was downloaded: a row of download_history for each response, and the files' counters.
--
-- Owns the rows that are not in the database yet. Whoever adds one while nobody writes writes all there are, in one
-- statement, until none is left, with a rest in between, in which others gather; those go on at once. A row has an id
-- of its own, so that a batch may be sent again when nobody knows whether it arrived. While the database is away rows
-- wait; what cannot be kept is in the log, whole. So do those of a file that another transaction holds: not the others.
-- A process that is told to end writes first what waits; one that is killed loses it: what came within the rest, 50 ms.
-- Must not know requests. Works inside the loop of atelier.httpd only.
-- @module api.download_log
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"
local pg = require "atelier.pg"
local uuid = require "uuid"

local M = {}

local MOST_WAITING = 10000
local BATCH = 200
local REST = 0.05 -- a batch of twenty costs the database five times as much as one row, not twenty times
local FIRST_DELAY, LONGEST_DELAY = 0.1, 5
local LONGEST_BUSY = 1 -- while all that waits is held by others: what comes in next is not
local LONGEST_AGENT = 512

local WRITE = "select public.ate_offer_downloads($1::jsonb)::text as id"

local Log = {}
Log.__index = Log

-- What a client says of itself: any bytes. What the database takes for text: UTF-8.
local function clean(agent)
  agent = (agent or ""):sub(1, LONGEST_AGENT)
  return utf8.len(agent) and agent or (agent:gsub("[\128-\255]", "?"))
end

-- The row is not going to be in the database: here it stands.
local function give_up(entry, reason)
  log.error("a download was not recorded", { ate_file_id = entry.file, user = entry.user, status = entry.status,
    bytes = entry.bytes, ip = entry.ip, agent = entry.agent, entry = entry.id, fault = entry.reason, reason = reason })
end

local function encode(entries)
  local list, now = {}, httpd.now()
  for i, entry in ipairs(entries) do
    list[i] = { id = entry.id, file = entry.file, person = entry.user, ip = entry.ip, agent = entry.agent,
      status = entry.status, bytes = entry.bytes, reached_end = entry.reached_end, reason = entry.reason,
      age = math.max(0, now - entry.at) }
  end
  return pg.json(json.array(list))
end

local function is_refused(code)
  return code and (code:find "^22" or code:find "^23")
end

-- Writes the entries; one that the database refuses for what is in it is found and given up, the others are written.
-- Returns whether the database did its part; the ids of those that it could not write yet are put into `busy`.
local function write(self, entries, busy)
  local rows, message, code = self.db:service("ate_offer_downloads", WRITE, { encode(entries) }, true)
  for _, row in ipairs(rows or {}) do
    busy[row.id] = true
  end
  if rows then return true end
  if not is_refused(code) then return nil, message end
  if #entries == 1 then
    give_up(entries[1], message)
    return true
  end
  for _, entry in ipairs(entries) do
    local ok, why = write(self, { entry }, busy)
    if not ok then return nil, why end
  end
  return true
end

-- The entries are written; those that are not go to the end. Returns how many are.
local function conclude(self, entries, busy)
  local written = 0
  for i, entry in ipairs(entries) do
    self.waiting[self.first + i - 1] = nil
    if busy[entry.id] then
      self.last = self.last + 1
      self.waiting[self.last] = entry
    else
      written = written + 1
    end
  end
  self.first = self.first + #entries
  return written
end

local function flush(self)
  local delay
  while self.first <= self.last do
    local entries = table.move(self.waiting, self.first, math.min(self.last, self.first + BATCH - 1), 1, {})
    local busy = {}
    local ok, message = write(self, entries, busy)
    local written = ok and conclude(self, entries, busy)
    if ok and written > 0 then
      delay = nil
      if #entries < BATCH then
        httpd.sleep(REST)
      end
    else
      if not delay then
        log.warn("downloads wait to be recorded", { waiting = self.last - self.first + 1,
          reason = message or "another transaction holds their files" })
      end
      delay = math.min((delay or FIRST_DELAY / 2) * 2, ok and LONGEST_BUSY or LONGEST_DELAY)
      httpd.sleep(delay * (0.5 + math.random() / 2))
    end
  end
end

-- However the writer ends, the next one may begin.
local Turn = {}
Turn.__index = Turn

function Turn:__close()
  self.log.is_writing = false
end

--- Takes an entry, and writes, unless somebody does already. Returns when it is written or somebody else's task.
-- @tparam table entry `file` (UUID), `ip`, `agent`, `status` ("completed" or "failed"), `bytes`, `reached_end`,
--   `user`; `reason` where it was this service that cut it
function Log:add(entry)
  entry.id, entry.at, entry.agent = uuid.new(), httpd.now(), clean(entry.agent)
  if self.last - self.first + 1 >= self.most then
    return give_up(entry, "too many wait already")
  end
  self.last = self.last + 1
  self.waiting[self.last] = entry
  self:write()
end

--- Writes what waits, unless somebody does already.
function Log:write()
  if not self.is_writing and self.first <= self.last then
    self.is_writing = true
    local turn <close> = setmetatable({ log = self }, Turn) -- luacheck: ignore 211
    flush(self)
  end
end

--- How many rows are not in the database yet.
-- @treturn integer
function Log:count()
  return self.last - self.first + 1
end

--- The end: what still waits goes into the log.
function Log:stop()
  for i = self.first, self.last do
    give_up(self.waiting[i], "the process ended before the database was back")
  end
  self.waiting, self.first, self.last = {}, 1, 0
end

--- A log of downloads.
-- @tparam table db see api.database
-- @tparam[opt] integer most rows that may wait (10,000)
-- @treturn table log
function M.new(db, most)
  return setmetatable({ db = db, most = most or MOST_WAITING, waiting = {}, first = 1, last = 0 }, Log)
end

return M
