--- A generation: the processes that were started with one state of scripts, templates and configuration.
--
-- Owns their number and names, when one that died is started again, and when that is given up. Must not know of other
-- generations, nor why this one begins or ends.
-- @module daemon.generation
local clock = require "clock"
local host = require "atelier.host"
local log = require "log"

local M = {}
local Generation = {}
Generation.__index = Generation

local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10 -- seconds between a death and the next start
local DEATHS, WITHIN = 10, 60              -- so many deaths of one process in so many seconds: it is given up
local START_SECONDS = 60                   -- until the first word of a process
local GRACE = 5                            -- seconds that a silent process has once its silence was seen
local MARGIN = 3                           -- seconds, after the time to drain, until a process is killed

local function add(self, kind, count)
  for i = 1, count do
    local name = kind == "keeper" and kind or kind .. " " .. i
    self.processes[#self.processes + 1] = { name = name, kind = kind, restarts = 0, deaths = {}, start_at = 0 }
  end
end

--- A generation, nothing of which runs yet.
-- @tparam table options number; plan (see `daemon.check`); supervisor; listener (descriptor); env (variables for all)
-- @treturn table generation
function M.new(options)
  local self = setmetatable({ number = options.number, plan = options.plan, supervisor = options.supervisor,
    listener = options.listener, env = options.env, processes = {}, is_ending = false }, Generation)
  add(self, "front", self.plan.fronts)
  add(self, "worker", self.plan.workers)
  add(self, "keeper", 1)
  return self
end

--- Starts a process of the service.
-- @tparam table options supervisor, name, number (of the generation), env, listener (for a front)
-- @treturn[1] integer id
-- @treturn[1] integer pid
-- @return[2] nil
-- @treturn[2] string message
function M.spawn(options)
  local env = { ATELIER_PROCESS = options.name, ATELIER_GENERATION = tostring(options.number), NOTIFY_SOCKET = false,
    ATELIER_LISTEN_FD = options.listener and tostring(options.listener) or false }
  for name, value in pairs(options.env) do
    env[name] = value
  end
  return options.supervisor:spawn { exe = host.exe, title = "atelier: " .. options.name, env = env,
    keep = options.listener and { options.listener } or nil }
end

local function start(self, p)
  local id, pid = M.spawn { supervisor = self.supervisor, name = p.name, number = self.number, env = self.env,
    listener = p.kind == "front" and self.listener or nil }
  p.start_at = nil
  if not id then
    log.error("process not started", { process = p.name, reason = pid })
    p.start_at = clock.now() + LONGEST_PAUSE
    return
  end
  local now = clock.now()
  p.id, p.pid, p.since, p.is_ready, p.failure, p.quiet_at = id, pid, os.time(), false, nil, now + START_SECONDS
  log.debug("process started", { process = p.name, child = pid, generation = self.number })
end

--- The process with this id, or nil.
-- @tparam integer id
-- @treturn ?table process
function Generation:find(id)
  for _, p in ipairs(self.processes) do
    if p.id == id then
      return p
    end
  end
end

--- Takes what a process has said.
-- @tparam table p process
-- @tparam string text
-- @treturn boolean whether the state of the service changed
function Generation:hear(p, text)
  local kind, rest = text:match "^(%a+) ?(.*)$"
  if kind == "ready" then
    p.is_ready, p.ready_at = true, clock.now()
    return true
  elseif kind == "alive" and not self.is_ending then
    p.quiet_at, p.is_doubted = clock.now() + (tonumber(rest) or START_SECONDS), nil
  elseif kind == "failed" then
    p.failure = rest
  end
  return false
end

local function recent(p, now)
  local kept = {}
  for _, at in ipairs(p.deaths) do
    if now - at < WITHIN then
      kept[#kept + 1] = at
    end
  end
  p.deaths = kept
  return #kept
end

--- How a process ended, in words.
-- @tparam table event see atelier.master
-- @tparam ?string failure what it said itself
-- @treturn string
function M.describe(event, failure)
  if failure then
    return failure
  end
  return event.signal and "killed by signal " .. event.signal or "ended with code " .. event.code
end

-- Somebody killed it (SIGKILL): at once again if it did its work, and that is not held against it, however often. When
-- it had not come so far, the next one may not either (the kernel kills what takes too much memory).
local function plan_after_kill(p, event)
  p.early = p.is_ready and 0 or (p.early or 0) + 1
  local pause = p.early == 0 and 0 or math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ (p.early - 1))
  log.warn("process killed, started again", { process = p.name, child = event.pid, again_in = pause })
  p.start_at = clock.now() + pause
end

local function plan_after_death(p, event, reason)
  local now = clock.now()
  p.deaths[#p.deaths + 1] = now
  local count = recent(p, now)
  local pause = math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ (count - 1))
  log.error("process ended", { process = p.name, child = event.pid, reason = reason, again_in = pause })
  p.start_at = now + pause
  return count < DEATHS
end

--- Takes the end of a process, and plans its next start.
-- @tparam table p process
-- @tparam table event of atelier.master
-- @treturn boolean false when it died too often
function Generation:bury(p, event)
  local reason = p.was_silent and "was silent for too long" or M.describe(event, p.failure)
  local may_go_on = true
  if not self.is_ending then
    p.restarts, p.last = p.restarts + 1, reason
    if event.signal == "KILL" and not p.was_silent then
      plan_after_kill(p, event)
    else
      may_go_on = plan_after_death(p, event, reason)
    end
  elseif event.code ~= 0 and event.signal ~= "KILL" and event.signal ~= "TERM" then -- TERM: told before it had begun
    log.warn("process ended badly", { process = p.name, child = event.pid, reason = reason })
  end
  p.id, p.pid, p.is_ready, p.was_silent, p.is_doubted = nil, nil, false, nil, nil
  return may_go_on
end

-- The whole machine may have stood still, and all processes with it: then each has a moment to say so.
local function may_speak_yet(self, p, now)
  if self.is_ending or p.is_doubted then
    return false
  end
  p.is_doubted, p.quiet_at = true, now + GRACE
  return true
end

--- Starts what is due, and kills what is silent or did not end in time.
-- @treturn number when to come again, on the clock of `clock`
function Generation:turn()
  local now, due = clock.now(), math.huge
  for _, p in ipairs(self.processes) do
    if p.id and now > p.quiet_at and not may_speak_yet(self, p, now) then
      log.error(self.is_ending and "process did not end in time, killed" or "process silent, killed",
        { process = p.name, child = p.pid, generation = self.number })
      p.was_silent, p.quiet_at = not self.is_ending, now + START_SECONDS
      self.supervisor:kill(p.id, "KILL")
    elseif not p.id and not self.is_ending and now >= p.start_at then
      start(self, p)
    end
    due = math.min(due, p.id and p.quiet_at or p.start_at or math.huge)
  end
  return due
end

--- Whether every process does its work.
-- @treturn boolean
function Generation:is_ready()
  for _, p in ipairs(self.processes) do
    if not p.is_ready then
      return false
    end
  end
  return true
end

--- Whether nothing of it runs.
-- @treturn boolean
function Generation:is_over()
  for _, p in ipairs(self.processes) do
    if p.id then
      return false
    end
  end
  return true
end

--- Tells every process to end what is under way and then itself; one that does not is killed.
-- @tparam[opt] number seconds (the configured time to drain)
function Generation:finish(seconds)
  local limit = clock.now() + (seconds or self.plan.drain_time) + MARGIN
  self.is_ending = true
  for _, p in ipairs(self.processes) do
    if p.id then
      self.supervisor:kill(p.id, "TERM")
      self.supervisor:kill(p.id, "CONT") -- a stopped one would never hear of it
      p.quiet_at = limit
    end
    p.start_at = math.huge
  end
end

return M
