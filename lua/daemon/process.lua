--- A child process of the master, seen from inside: its name, its configuration, and the words between the two.
--
-- A child says "ready" once it does its work, "alive SECONDS" (expect the next word within so many), and "failed TEXT"
-- before it ends. The master says "state JSON" whenever something changed. When the master is gone, the kernel sends
-- SIGTERM and the channel ends. Must not know what the child does.
-- @module daemon.process
local clock = require "clock"
local config = require "config"
local json = require "atelier.json"
local log = require "log"
local master = require "atelier.master"
local metrics = require "metrics"
local signal = require "posix.signal"
local unistd = require "posix.unistd"

local M = {}
local Process = {}
Process.__index = Process

local LONGEST_REASON = 2000 -- bytes; it goes to every process and to operators' eyes
local GRACE = 5 -- seconds that a process may take to end, after what it may take for what is under way

--- The process that the environment describes.
-- @tparam string name as in "front 1"
-- @treturn[1] table process: name, generation, control, state (of the service, see `daemon.report`)
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.open(name)
  local fd = math.tointeger(tonumber(os.getenv "ATELIER_CONTROL_FD" or ""))
  if not fd then
    return nil, ("%s: is started by the master alone: see `atelier serve --help`"):format(name), "no_master"
  end
  -- A reload is the master's: `pkill -HUP -f atelier` reaches all, and would end what is under way here.
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  local control, message, code = master.control(fd)
  if not control then
    return nil, message, code
  end
  local generation = math.tointeger(tonumber(os.getenv "ATELIER_GENERATION" or "")) or 1
  return setmetatable({
    name = name,
    generation = generation,
    watchdog = 30, -- until the configuration is read
    control = control,
    state = { generation = generation }, -- until the master tells more
    spoke_at = -math.huge,
  }, Process)
end

--- What a process cannot be without: passes on what was to be had, or ends the process with the reason why not.
-- @param value
-- @tparam ?string message
-- @return value
function M.need(value, message)
  if not value then
    error({ message = message }, 0)
  end
  return value
end

--- Reads the configuration, and logs as it says from then on. Without one the process ends.
-- @treturn table config
function Process:load_config()
  local values = M.need(config.load())
  self.watchdog = values.watchdog
  log.configure { level = values.log_level, format = values.log_format }
  return values
end

--- Says that the work has begun. What was needed until then goes first.
-- @tparam[opt] number extra as of `alive`
function Process:ready(extra)
  collectgarbage()
  self:alive(extra)
  self.control:send "ready"
end

--- Says that all is well, at most twice a second unless the time that is asked for differs.
-- @tparam[opt] number extra seconds, besides the watchdog's, until the next word
function Process:alive(extra)
  local now = clock.now()
  if extra ~= self.extra or now - self.spoke_at > 0.5 then
    self.spoke_at, self.extra = now, extra
    self.control:send(("alive %.1f"):format(self.watchdog + (extra or 0)))
  end
end

--- Says why this process is about to end.
-- @tparam string message
function Process:fail(message)
  if #message > LONGEST_REASON then
    message = message:sub(1, LONGEST_REASON):gsub("[\xC0-\xFF][\x80-\xBF]*$", "") .. "…"
  end
  self.control:send("failed " .. message)
end

local function take(self, text)
  local kind, rest = text:match "^(%a+) ?(.*)$"
  if kind == "state" then
    self.state = json.decode(rest) or self.state
  end
end

--- Takes what the master has said, waiting for it if told to; a signal ends the wait.
-- @tparam[opt] number seconds
-- @treturn boolean false when the master is gone
function Process:listen(seconds)
  repeat
    local text, message, code = self.control:receive(seconds or 0)
    if text then
      take(self, text)
    elseif code ~= "empty" then
      log.debug("channel ended", { reason = message })
      return false
    end
    seconds = 0
  until not text
  return true
end

--- What each turn of a loop does that never waits long: says that all is well, hears the master, leaves the figures.
-- @tparam table subject told to stop when the master is gone
-- @tparam[opt] number extra as of `alive`
function Process:turn(subject, extra)
  self:alive(extra)
  if not self:listen() then
    subject:stop()
  end
  metrics.save(1)
end

local Stop = {}
Stop.__index = Stop

--- Who is to be told, too: `subject:stop()` is called when the process is told to stop, or at once when it was already.
-- @tparam table subject
function Stop:tell(subject)
  self.subject = subject
  if self.asked then
    subject:stop()
  end
end

--- Takes SIGTERM and SIGINT as the wish that this process ends what is under way, and then itself.
-- @tparam number seconds that it may take for that
-- @treturn table stop: `asked`, once it is
function Process:on_stop(seconds)
  local stop = setmetatable({}, Stop)
  for _, number in ipairs { signal.SIGTERM, signal.SIGINT } do
    signal.signal(number, function()
      if not stop.asked then
        self.limit(seconds)
      end
      stop.asked = true
      if stop.subject then
        stop.subject:stop()
      end
    end)
  end
  return stop
end

--- From now on this process has so many seconds left, whatever it does: a drain that hangs must not last.
-- @tparam number seconds
function Process.limit(seconds)
  unistd.alarm(math.ceil(seconds) + GRACE)
end

return M
