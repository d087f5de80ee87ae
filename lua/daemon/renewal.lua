--- A new generation in place of the old one: checked, started beside it, and put in its place once all of it is ready.
--
-- Owns the order of these steps, and what becomes of a try that fails: the old generation goes on, and the reason is
-- told. Must not know why somebody wants a new generation.
-- @module daemon.renewal
local clock = require "clock"
local generation = require "daemon.generation"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"

local M = {}
local Renewal = {}
Renewal.__index = Renewal

local CHECK_SECONDS = 120 -- that a look at everything may take
local SLOW_SECONDS = 5    -- after which it makes way for another one that is wanted
local READY_SECONDS = 120 -- that a new generation may take until it is ready

--- The renewal of a master's generations.
-- @tparam table owner the master: supervisor, env, server, current (generation), ending (list), number; changed(what),
--   where what is "refused", with the reason, or "taken"; watch_files(folders)
-- @treturn table renewal
function M.new(owner)
  return setmetatable({ owner = owner, result = { ok = true, at = owner.started_at } }, Renewal)
end

--- Whether a new generation is on its way.
-- @treturn boolean
function Renewal:is_busy()
  return self.check ~= nil or self.next ~= nil
end

--- Looks whether all is well; then a new generation follows.
function Renewal:begin()
  local owner = self.owner
  local number = owner.number + 1
  local id, pid = generation.spawn { supervisor = owner.supervisor, name = "check", number = number, env = owner.env }
  if not id then
    return self:refuse(pid)
  end
  local now = clock.now()
  self.check = { id = id, pid = pid, limit = now + CHECK_SECONDS, slow_at = now + SLOW_SECONDS }
end

-- A generation's socket is the former one's, unless its address is another.
local function retire(owner, g, seconds)
  if g.server ~= owner.server then
    g.server:close()
  end
  g:finish(seconds)
  owner.ending[#owner.ending + 1] = g
end

--- Ends the try, at whatever step it is.
function Renewal:abandon()
  if self.check then
    self.owner.supervisor:kill(self.check.id, "KILL")
  end
  if self.next then
    retire(self.owner, self.next, 0)
  end
  self.check, self.next = nil, nil
end

--- The new generation is not to be.
-- @tparam string reason
function Renewal:refuse(reason)
  self:abandon()
  self.result = { ok = false, at = os.date "!%Y-%m-%dT%H:%M:%SZ", message = reason }
  self.owner:changed("refused", reason)
end

-- All is well with the files: the new processes start beside the old ones.
local function start(self, plan)
  local owner, server = self.owner, self.owner.server
  local old = owner.current and owner.current.plan
  if old and (plan.listen_host ~= old.listen_host or plan.listen_port ~= old.listen_port) then
    local other, message = httpd.listen { host = plan.listen_host, port = plan.listen_port }
    if not other then
      return self:refuse(("%s, port %d"):format(message, plan.listen_port))
    end
    server = other
  end
  owner.number = owner.number + 1
  self.next = generation.new { number = owner.number, plan = plan, supervisor = owner.supervisor, env = owner.env,
    listener = server:fd() }
  self.next.server = server
  self.next.limit = clock.now() + READY_SECONDS
end

-- All new processes do their work: the old ones end theirs.
local function take_over(self)
  local owner, new = self.owner, self.next
  local old = owner.current
  owner.current, owner.server, self.next = new, new.server, nil
  self.result = { ok = true, at = os.date "!%Y-%m-%dT%H:%M:%SZ" }
  new.since = self.result.at
  if old then
    retire(owner, old)
  end
  log.configure { level = new.plan.log_level, format = new.plan.log_format }
  owner:changed "taken"
end

--- Takes what the check says.
-- @tparam table event of atelier.master
-- @treturn boolean whether it was the check's
function Renewal:hear(event)
  if not self.check or event.id ~= self.check.id then
    return false
  end
  local kind, rest = event.text:match "^(%a+) (.*)$"
  if kind == "plan" then
    self.check.plan = json.decode(rest)
  elseif kind == "folders" then
    self.owner:watch_files(json.decode(rest))
  elseif kind == "at" then
    self.check.at = rest
  elseif kind == "failed" then
    self.check.failure = rest
    self.owner.supervisor:kill(event.id, "KILL") -- that is all; what it began may keep it from its end
  end
  return true
end

-- Why a check that has said nothing is no good.
local function excuse(check, event)
  local reason = event.code == 0 and "the check ended before its time: does a script call os.exit?"
    or event.signal == "XCPU" and "still at it after all the processor time that it may take"
    or generation.describe(event)
  return check.at and ("%s: %s"):format(check.at, reason) or reason
end

--- Takes the end of the check.
-- @tparam table event of atelier.master
-- @treturn boolean whether it was the check's
function Renewal:bury(event)
  local check = self.check
  if not check or event.id ~= check.id then
    return false
  end
  self.check = nil
  if event.code == 0 and check.plan then
    start(self, check.plan)
  else
    self:refuse(check.failure or excuse(check, event))
  end
  return true
end

--- Goes on when the next step can be taken.
function Renewal:turn()
  local now = clock.now()
  local check = self.check
  if check and now > (self.owner.is_wanted_again and check.slow_at or check.limit) then
    self:refuse("the check takes too long" .. (check.at and ", at " .. check.at or ""))
  elseif self.next and now > self.next.limit then
    self:refuse(("generation %d was not ready in time"):format(self.next.number))
  elseif self.next and self.next:is_ready() then
    take_over(self)
  end
end

return M
