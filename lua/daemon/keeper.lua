--- The process "keeper": a round of lua/workflow's keeper now and then, kept alive by the master.
-- Owns the clock and the connection. Must not know what a round does.
-- @module daemon.keeper
local clock = require "clock"
local database = require "daemon.database"
local log = require "log"
local signal = require "posix.signal"
local storage = require "storage"

local M = {}

local PATIENCE = 600 -- seconds that a round may take, with all its timeouts
local RETRY = 5      -- seconds until a database that was not reached is tried again

local function open(process, config, store, held)
  local conn, message, code = database.connect(config, process.name)
  if conn then
    held.conn = conn
    held.keeper = require("workflow.keeper").new { conn = conn, store = store, config = config }
  end
  return conn, message, code
end

-- One round; the connection is opened for the first one and after a failure.
local function round(process, config, store, held)
  if not held.conn then
    local opened, message, code = open(process, config, store, held)
    if not opened then
      return nil, message, code
    end
  end
  process:alive(PATIENCE)
  local counts, message, code = held.keeper:round()
  if not counts then
    held.conn:close()
    held.conn, held.keeper = nil, nil
  end
  return counts, message, code
end

-- Waits until the time, a signal, or the end of the master.
local function rest(process, until_when, stop)
  while not stop.asked and clock.now() < until_when do
    process:alive()
    if not process:listen(math.min(1, math.max(0.01, until_when - clock.now()))) then
      stop.asked = true
    end
    local found, metrics = pcall(require, "metrics")
    if found then
      metrics.save()
    end
  end
end

local function serve(process, config, store, stop)
  local held, said = {}, nil
  while not stop.asked do
    local began = clock.now()
    local counts, message, code
    if pcall(require, "workflow.keeper") then
      counts, message, code = round(process, config, store, held)
    end
    if not counts and message ~= said then
      log.warn("keeper's round failed", { reason = message, code = code })
    end
    said = message
    rest(process, began + (counts and config.keeper_interval or RETRY), stop)
  end
  if held.conn then
    held.conn:close()
  end
end

--- Keeps house until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn[1] integer exit code
-- @return[2] nil
-- @treturn[2] string message
function M.main(process)
  local config, message = process:load_config()
  if not config then
    return nil, message
  end
  local store
  store, message = storage.open(config)
  if not store then
    return nil, message
  end
  local stop = {}
  for _, number in ipairs { signal.SIGTERM, signal.SIGINT } do
    signal.signal(number, function()
      if not stop.asked then
        process.limit(config.drain_time)
      end
      stop.asked = true
    end)
  end
  process:ready()
  serve(process, config, store, stop)
  store:close()
  return 0
end

return M
