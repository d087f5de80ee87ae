--- The master: keeps a generation of processes running, and has a new one put in its place without a gap.
--
-- Owns the listening socket, signals and generations. Reads no file that an operator edits and has no connection to the
-- database: the process "check" does both. Its own scripts are loaded once, at the start.
-- @module daemon.master
local clock = require "clock"
local generation = require "daemon.generation"
local httpd = require "atelier.httpd"
local launch = require "daemon.launch"
local log = require "log"
local master = require "atelier.master"
local renewal = require "daemon.renewal"
local report = require "daemon.report"
local unistd = require "posix.unistd"
local watch = require "daemon.watch"

local M = {}
local Master = {}
Master.__index = Master

-- ==== what is wanted ====

--- A new generation is wanted: now, or once the one that is being made is done.
-- @tparam string why
function Master:reload(why)
  if self.is_stopping then
    return
  elseif self.renewal:is_busy() then
    self.is_wanted_again = why
    return
  end
  log.info("reload", { reason = why, generation = self.number + 1 })
  self.report:notify("RELOADING=1\nMONOTONIC_USEC=" .. math.floor(clock.now() * 1e6))
  self.renewal:begin()
end

--- Everything ends what is under way, and then the service does.
-- @tparam ?integer code exit code, unless one was given before
-- @tparam[opt] number seconds to drain
function Master:stop(code, seconds)
  if not self.is_stopping then
    self.report:notify "STOPPING=1"
    self.port = self.server:port() -- which is still told
    self.server:close() -- else who comes now would wait for the drain, and then be cut off
  end
  self.is_stopping, self.exit = true, self.exit or code
  self.renewal:abandon()
  for _, g in ipairs(self:generations()) do
    g:finish(seconds)
  end
  self.report:changed()
end

--- Has a change in these folders, or of the configuration, mean another generation; called by the renewal.
-- @tparam {string,...} folders
function Master:watch_files(folders)
  for _, problem in ipairs(self.watch:add(folders, os.getenv "ATELIER_CONFIG")) do
    log.warn("not watched", { reason = problem })
  end
end

--- What came of a new generation; called by the renewal.
-- @tparam string what "taken" or "refused"
-- @tparam[opt] string reason
function Master:changed(what, reason)
  self.report:changed()
  if what == "taken" then
    local plan = self.current.plan
    self.report:announce()
    log.info("serving", { generation = self.number, url = self:url(), fronts = plan.fronts, workers = plan.workers })
  elseif self.is_stopping then
    return
  elseif not self.current then
    log.error("service not started", { reason = reason })
    self.report:announce(reason)
    return self:stop(1)
  else
    log.error("reload refused, the old generation goes on", { reason = reason, generation = self.current.number })
  end
  self.report:notify "READY=1"
  local why = self.is_wanted_again
  self.is_wanted_again = nil
  if why then
    self:reload(why)
  end
end

--- Where the service is reached.
-- @treturn string
function Master:url()
  return launch.address(self.current and self.current.plan.listen_host or self.options.host,
    self.port or self.server:port())
end

-- ==== events ====

--- All generations that have processes.
-- @treturn {table,...}
function Master:generations()
  local all = table.move(self.ending, 1, #self.ending, 1, {})
  all[#all + 1] = self.current
  all[#all + 1] = self.renewal.next
  return all
end

local function find(self, id)
  for _, g in ipairs(self:generations()) do
    local p = g:find(id)
    if p then
      return g, p
    end
  end
end

local function on_message(self, event)
  if not self.renewal:hear(event) then
    local g, p = find(self, event.id)
    if g and g:hear(p, event.text) then
      self.report:changed()
    end
  end
end

local function on_end(self, event)
  if self.renewal:bury(event) then
    return
  end
  local g, p = find(self, event.id)
  if not g then
    return
  end
  local failure = p.failure
  local may_go_on = g:bury(p, event)
  -- A new generation's process that ends by itself, and not by somebody's kill -9, will do so in the next try, too.
  if g == self.renewal.next and (failure or event.signal ~= "KILL") then
    self.renewal:refuse(("%s: %s"):format(p.name, generation.describe(event, failure)))
  elseif not may_go_on then
    log.error("service gives up: a process dies again and again", { process = p.name, reason = p.last })
    self:stop(1)
  end
  self.report:changed()
end

local function on_signal(self, name)
  if name == "HUP" and not self.report:has_lost_terminal() then
    self:reload "SIGHUP"
  elseif self.is_stopping then
    log.warn("told to stop again: nothing is waited for", { signal = name })
    self:stop(nil, 0)
  else
    log.info("told to stop", { signal = name })
    self:stop(0)
  end
end

local function on_event(self, event)
  if event.type == "message" then
    on_message(self, event)
  elseif event.type == "end" then
    on_end(self, event)
  elseif event.type == "signal" then
    on_signal(self, event.name)
  elseif event.type == "change" then
    self.watch:note(event)
  end
end

-- ==== the loop ====

-- Drops the generations that are over.
local function sweep(self)
  local left = {}
  for _, g in ipairs(self.ending) do
    left[#left + 1] = not g:is_over() and g or nil
  end
  if #left < #self.ending then
    self.ending = left
    self.report:changed()
  end
end

local function turn(self)
  local due = math.huge
  sweep(self)
  for _, g in ipairs(self:generations()) do
    due = math.min(due, g:turn())
  end
  self.renewal:turn()
  if self.watch:is_settled() then
    self:reload "a file changed"
  end
  self.report:turn()
  return math.min(due, self.watch.due or math.huge)
end

local function is_over(self)
  if not self.is_stopping then
    return false
  end
  for _, g in ipairs(self:generations()) do
    if not g:is_over() then
      return false
    end
  end
  return true
end

local function loop(self)
  self.renewal:begin()
  while not is_over(self) do
    local due = turn(self)
    local event, message = self.supervisor:wait(math.max(0, math.min(1, due - clock.now())))
    if event then
      on_event(self, event)
    elseif message then
      error(message)
    end
  end
end

--- Supervises the service until told to stop, or until it gives up.
-- @treturn integer exit code
function M.main()
  local options = report.options()
  local self = setmetatable({ options = options, number = 0, ending = {}, supervisor = assert(master.open()),
    server = assert(httpd.listen { fd = options.listen_fd }), started_at = os.date "!%Y-%m-%dT%H:%M:%SZ" }, Master)
  unistd.close(options.listen_fd) -- the server has a duplicate
  self.env = { ATELIER_RUN = options.run, ATELIER_MASTER = false, ATELIER_WATCH = options.watch and "1" or false }
  self.watch = watch.new(self.supervisor)
  self.renewal = renewal.new(self)
  self.report = report.new(self)
  loop(self)
  self.report:close()
  self.supervisor:close()
  return self.exit or 0
end

return M
