--- The process "front": the HTTP server with the API inside, on the socket that the master listens on.
-- Owns the server's limits, signals and ticks. Must not know any route.
-- @module daemon.front
local api = require "api"
local database = require "daemon.database"
local httpd = require "atelier.httpd"
local log = require "log"
local metrics = require "metrics"
local need = require("daemon.process").need
local resource = require "posix.sys.resource"
local unistd = require "posix.unistd"

local M = {}

local OTHER_FILES = 200

-- Everything of the master's is taken as it comes: its end is a reason to end, too.
local function attend(process, server, config)
  while true do
    local ready, _, code = httpd.wait(process.control:fd(), "r", 60)
    if not ready and code ~= "timeout" or not process:listen() then
      process.limit(config.drain_time)
      return server:drain(config.drain_time)
    end
  end
end

-- The front is ready although its database may not be: then it says so, to everybody who asks.
local function begin(process, app, server, config)
  local ok, problem = xpcall(app.start, debug.traceback, app)
  if not ok then
    log.error("front failed", { reason = problem })
    process:fail(tostring(problem):match "^[^\n]*")
    server:stop()
    return
  end
  process:ready()
  attend(process, server, config)
end

local function tick(process, app)
  process:alive()
  app:tick()
  metrics.save()
end

-- Descriptors: for each connection, the file that it is sent, every fourth that still reads why it was refused; and for
-- what else a front has open. → how many connections there is room for
local function make_room(connections)
  local wanted = connections * 9 // 4 + OTHER_FILES
  local limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limit.rlim_cur < 0 or limit.rlim_cur >= wanted then -- below 0: no limit
    return connections
  end
  limit.rlim_cur = limit.rlim_max >= 0 and math.min(wanted, limit.rlim_max) or wanted
  resource.setrlimit(resource.RLIMIT_NOFILE, limit)
  local files = resource.getrlimit(resource.RLIMIT_NOFILE).rlim_cur
  local room = math.max(1, (files - OTHER_FILES) * 4 // 9)
  if files < wanted and room < connections then
    log.warn("a front takes fewer connections than front_connections says: too few open files are allowed",
      { connections = room, open_files = files, wanted = wanted })
    return room
  end
  return connections
end

local function open_server(config)
  local fd = math.tointeger(tonumber(os.getenv "ATELIER_LISTEN_FD" or "")) or -1
  config.front_connections = make_room(config.front_connections)
  local server = need(httpd.listen { fd = fd, limits = { connections = config.front_connections,
    idle_seconds = config.front_idle, slice_ms = config.script_time * 1000 } })
  unistd.close(fd) -- the server has a duplicate
  return server
end

--- Serves until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn[1] integer exit code
-- @return[2] nil
-- @treturn[2] string message
function M.main(process)
  local config = process:load_config()
  config.database_url = need(database.url(config))
  local server = open_server(config)
  local app = need(api.new { config = config, state = function()
    return process.state
  end })
  local ok, message = server:run {
    handler = app:handler(),
    accept = app:acceptor(),
    on_complete = app:completer(),
    on_start = function()
      begin(process, app, server, config)
    end,
    on_tick = function()
      tick(process, app)
    end,
    signals = { "TERM", "INT" },
    on_signal = function()
      process.limit(config.drain_time)
      server:drain(config.drain_time)
    end,
    on_log = function(level, text)
      log[level]("http", { reason = text })
    end,
  }
  pcall(app.stop, app)
  return ok and 0 or nil, message
end

return M
