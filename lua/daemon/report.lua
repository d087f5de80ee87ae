--- What the master tells: its children and a file the state of the service, the service manager that it lives.
--
-- Owns the folder `run` of the state folder: the lock that keeps a second service out, the file with the state, the
-- snapshots of the processes' metrics. Must not know when a generation begins or ends.
-- @module daemon.report
local clock = require "clock"
local fcntl = require "posix.fcntl"
local json = require "atelier.json"
local log = require "log"
local master = require "atelier.master"
local unistd = require "posix.unistd"

local M = {}
local Report = {}
Report.__index = Report

--- What `atelier serve` found out before it became the master.
-- @treturn table run (folder), host, listen_fd, lock_fd, watch, pid_file, json, postgres (folder of what to
--   stop at the end)
function M.options()
  local options = assert(json.decode(os.getenv "ATELIER_MASTER" or ""), "started by `atelier serve` alone")
  log.configure(options.log)
  for _, fd in ipairs { options.listen_fd, options.lock_fd } do
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
  end
  return options
end

local function write(path, text)
  local file, message = io.open(path .. ".new", "w")
  local ok = file
  if file then
    ok, message = file:write(text)
    file:close()
  end
  if ok then
    ok, message = os.rename(path .. ".new", path)
  end
  if not ok then
    log.warn("file not written", { path = path, reason = message })
  end
end

--- A report.
-- @tparam table owner the master
-- @treturn table report
function M.new(owner)
  local usec = tonumber(os.getenv "WATCHDOG_USEC" or "")
  local self = setmetatable({ owner = owner, path = owner.options.run .. "/master.json", is_changed = true,
    beat = usec and usec / 2e6, beat_at = 0, had_terminal = unistd.isatty(2) == 1 }, Report)
  if owner.options.pid_file then
    write(owner.options.pid_file, ("%d\n"):format(unistd.getpid()))
  end
  return self
end

--- Tells the service manager, if there is one.
-- @tparam string text
function Report.notify(_, text)
  local ok, message = master.notify(text)
  if ok == nil then
    log.warn("service manager not told", { reason = message })
  end
end

--- Whether the terminal that this was started at is gone: then SIGHUP means that, and not a reload.
-- @treturn boolean
function Report:has_lost_terminal()
  return self.had_terminal and unistd.isatty(2) ~= 1
end

--- Something is not as it was told last.
function Report:changed()
  self.is_changed = true
end

local function state_of(p)
  return not p.id and "waits" or p.is_ready and "ready" or "starts"
end

local function processes(owner)
  local list = json.array { { name = "master", pid = unistd.getpid(), generation = owner.number, restarts = 0,
    since = owner.started_at, state = owner.is_stopping and "ends" or "ready" } }
  for _, g in ipairs(owner:generations()) do
    for _, p in ipairs(g.processes) do
      if p.id or not g.is_ending then
        list[#list + 1] = { name = p.name, pid = p.pid, generation = g.number, restarts = p.restarts, last_end = p.last,
          since = p.since and os.date("!%Y-%m-%dT%H:%M:%SZ", p.since), state = g.is_ending and "ends" or state_of(p) }
      end
    end
  end
  return list
end

local function state(owner)
  local current = owner.current
  return { generation = current and current.number or 0, since = current and current.since,
    started_at = owner.started_at, pid = unistd.getpid(), url = owner:url(), reload = owner.renewal.result,
    stopping = owner.is_stopping or false, processes = processes(owner) }
end

-- One that does not read is told later: its socket holds some messages, and the last one is what counts.
local function tell(self)
  for _, g in ipairs(self.owner:generations()) do
    for _, p in ipairs(g.processes) do
      if p.id and p.is_ready and p.told ~= self.text then
        p.told = self.owner.supervisor:send(p.id, "state " .. self.text) and self.text or nil
      end
    end
  end
end

--- Tells what has changed, and that the master lives.
function Report:turn()
  if self.is_changed then
    self.is_changed = false
    self.text = assert(json.encode(state(self.owner)))
    write(self.path, self.text .. "\n")
  end
  tell(self)
  local now = clock.now()
  if self.beat and now >= self.beat_at then
    self.beat_at = now + self.beat
    self:notify "WATCHDOG=1"
  end
end

-- The private cluster goes with the service that started it.
local function stop_postgres(dir)
  local ok, stopped, message = pcall(function()
    return require("postgres").stop { dir = dir }
  end)
  if not ok or stopped == nil then
    log.warn("private database not stopped", { reason = ok and message or stopped })
  else
    log.info "private database stopped"
  end
end

--- For `--json`: the one object on standard output, once the service serves or cannot.
-- @tparam ?string fault why it cannot
function Report:announce(fault)
  if self.owner.options.json and not self.is_announced then
    self.is_announced = true
    io.stdout:write(assert(json.encode { ok = not fault, code = fault and "not_started" or "ok",
      message = fault and "serve: " .. fault or "serving", warnings = json.array {}, url = self.owner:url(),
      pid = unistd.getpid(), generation = self.owner.number }), "\n")
    io.stdout:flush()
  end
end

--- The service is over: what it had put into the world goes.
function Report:close()
  self:announce "told to stop before it served"
  local options = self.owner.options
  if options.postgres then
    stop_postgres(options.postgres)
    os.remove(options.run .. "/postgres")
  end
  if options.pid_file then
    os.remove(options.pid_file)
  end
  os.remove(self.path)
  log.info("stopped", { code = self.owner.exit })
end

return M
