--- Tells live views that something about their user's jobs has changed.
--
-- One connection of the process listens to ate_jobs, while there is anybody to be told. A notification names jobs; the
-- database is asked once whose they are, and the views of those users are woken: what they then see they ask
-- themselves, as their user. Behind a pooler that shares sessions nothing ever comes: a notification to ourselves shows
-- whether it does, and as long as not, views are to look every so often. Works inside the loop of atelier.httpd only.
-- @module api.hub
local crypto = require "atelier.crypto"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"

local M = {}

--- Views of one user that one process serves.
M.MOST_OF_USER = 8

local OWNERS = [[select distinct user_id::text as user from public.ate_job_owners($1::text[]::uuid[])]]
local PROBE = [[select pg_notify($1, '')]]
local PROBE_SECONDS = 20
local DEAF_SECONDS = 50 -- without a word from ourselves
local MOST_IDS = 2000 -- asked about at once; beyond it everybody is woken
local LINGER_SECONDS = 60 -- the connection stays when the last view is gone
local LONGEST_DELAY = 5

local Hub, View = {}, {}
Hub.__index, View.__index = Hub, View

-- ==== views ====================================================================================

local function wake(view)
  view.is_dirty = true
  -- Only out of the wait below: what else it may wait for is none of our business.
  if view.is_waiting then
    view.is_waiting = false
    view.task:wake()
  end
end

local function wake_all(self)
  for _, views in pairs(self.views) do
    for view in pairs(views) do
      wake(view)
    end
  end
end

--- Waits until something may have changed.
-- @tparam number seconds at most
-- @treturn boolean whether it has; false when the time is over
function View:wait(seconds)
  if not self.is_dirty then
    self.is_waiting = true
    httpd.park(seconds)
    self.is_waiting = false
  end
  local is_dirty = self.is_dirty
  self.is_dirty = false
  return is_dirty
end

--- Ends the view; `<close>` does.
function View:close()
  local hub, views = self.hub, self.hub.views[self.user]
  if views and views[self] then
    views[self] = nil
    hub.count = hub.count - 1
    if not next(views) then
      hub.views[self.user] = nil
    end
  end
end

View.__close = View.close

-- ==== listening ================================================================================

local function ids_of(notifications)
  local ids, seen = {}, {}
  for _, notification in ipairs(notifications) do
    local payload = notification.channel == "ate_jobs" and json.decode(notification.payload)
    for _, id in ipairs(type(payload) == "table" and type(payload.ids) == "table" and payload.ids or {}) do
      if type(id) == "string" and not seen[id] and id:find "^%x+%-[%x-]+$" then
        ids[#ids + 1], seen[id] = id, true
      end
    end
  end
  return ids
end

local function hear(self, notifications)
  for _, notification in ipairs(notifications) do
    if notification.channel == self.channel then
      self.heard_at = httpd.now()
    end
  end
  local ids = ids_of(notifications)
  if #ids == 0 or self.count == 0 then
    return
  end
  local rows = #ids <= MOST_IDS
    and self.db:service("ate_job_owners", OWNERS, { "{" .. table.concat(ids, ",") .. "}" }, true)
  if not rows then
    return wake_all(self)
  end
  for _, row in ipairs(rows) do
    for view in pairs(self.views[row.user] or {}) do
      wake(view)
    end
  end
end

local function probe(self)
  self.probed_at = httpd.now()
  self.db:service("ate_hub_probe", PROBE, { self.channel }, true)
end

-- Listens until the connection breaks, or nobody has been there for a while. → whether there was a connection, and why
-- it is no more
local function listen(self)
  local conn <close>, message = self.db:listener()
  if not conn then
    return false, message
  end
  for _, channel in ipairs { "ate_jobs", self.channel } do
    local ok, why = conn:listen(channel)
    if not ok then
      return false, why
    end
  end
  probe(self)
  wake_all(self) -- of what happened meanwhile nothing was heard
  local empty_since
  while not self.is_stopped do
    local found, why = conn:notifications(5)
    if not found then
      return true, why
    end
    hear(self, found)
    if httpd.now() - self.probed_at >= PROBE_SECONDS then
      probe(self)
    end
    empty_since = self.count == 0 and (empty_since or httpd.now()) or nil
    if empty_since and httpd.now() - empty_since >= LINGER_SECONDS then
      break
    end
  end
  return true
end

local function run(self)
  local delay = 0.1
  while self.count > 0 and not self.is_stopped do
    local was_there, message = listen(self)
    self.heard_at = nil
    if message then
      log.warn("live views look for themselves: nothing can be listened to", { reason = message })
      delay = was_there and 0.1 or math.min(delay * 2, LONGEST_DELAY)
      httpd.sleep(delay * (0.5 + math.random() / 2))
    end
  end
end

-- However the listening ends, the next view may begin it again.
local Turn = {}

function Turn:__close()
  self.hub.is_running = false
end

local function run_once(self)
  local turn <close> = setmetatable({ hub = self }, Turn) -- luacheck: ignore 211
  run(self)
end

-- ==== for those who look =======================================================================

--- Whether views are told; if not they must look every so often.
-- @treturn boolean
function Hub:is_live()
  return self.heard_at ~= nil and httpd.now() - self.heard_at < DEAF_SECONDS
end

--- How many views there are.
-- @treturn integer
function Hub:size()
  return self.count
end

--- Adds a view of the calling task; to be held in a `<close>` variable.
-- @tparam string user UUID, in lower case
-- @treturn[1] table view
-- @return[2] nil
-- @treturn[2] string "user" (it has too many) or "all"
function Hub:attach(user)
  local views, mine = self.views[user] or {}, 0
  for _ in pairs(views) do
    mine = mine + 1
  end
  if mine >= M.MOST_OF_USER then
    return nil, "user"
  elseif self.count >= self.most then
    return nil, "all"
  end
  local view = setmetatable({ hub = self, user = user, task = httpd.current(), is_dirty = false }, View)
  self.views[user], views[view] = views, true
  self.count = self.count + 1
  if not self.is_running then
    self.is_running = true
    httpd.spawn(run_once, self)
  end
  return view
end

--- Listens no more.
function Hub:stop()
  self.is_stopped = true
end

--- A hub.
-- @tparam table db see api.database
-- @tparam integer most views, of all users
-- @treturn table hub
function M.new(db, most)
  return setmetatable({ db = db, most = most, views = {}, count = 0,
    channel = "ate_hub_" .. crypto.hex(crypto.random(8)) }, Hub)
end

return M
