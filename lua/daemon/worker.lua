--- The process "worker": a worker of lua/workflow, kept alive by the master and told to stop by it.
-- Owns the waiting for a database at the start, and the beat. Must not know how files are made.
-- @module daemon.worker
local database = require "daemon.database"
local keyring = require "ate.keyring"
local log = require "log"
local signal = require "posix.signal"
local storage = require "storage"
local worker = require "workflow.worker"

local M = {}

-- Every turn of the worker's loop passes one of these methods, also while it waits for the store or the database.
local function beat_in(object, name, beat)
  local method = object[name]
  object[name] = function(self, extra, ...)
    beat(type(extra) == "number" and name == "keep_lease" and extra or 0)
    return method(self, extra, ...)
  end
end

local function save_metrics()
  local found, metrics = pcall(require, "metrics")
  if found then
    metrics.save()
  end
end

-- Tries until there is a database or no need of one; says so when what stands in the way has changed.
local function first_connection(process, config, stop)
  local said
  while not stop.asked do
    local conn, message, code = database.connect(config, process.name)
    if conn then
      return conn
    elseif message ~= said then
      log.warn("database not reached", { reason = message, code = code })
      said = message
    end
    process:alive(config.database_timeout)
    if not process:listen(1) then
      return nil
    end
  end
end

local function serve(process, config, store, ring, stop)
  local conn = first_connection(process, config, stop)
  if not conn then
    return
  end
  local w
  w = worker.new { conn = conn, store = store, ring = ring, config = config,
    connect = function()
      conn:close()
      local opened, message, code = database.connect(config, process.name)
      conn = opened or conn
      return opened, message, code
    end }
  local saved_at = 0
  local function beat(extra)
    process:alive(config.database_timeout + extra)
    if not process:listen() then
      w:stop()
    end
    if os.time() ~= saved_at then
      saved_at = os.time()
      save_metrics()
    end
  end
  beat_in(w.queue, "exchange", beat)
  beat_in(w.queue, "keep_lease", beat)
  beat_in(w, "pause", beat)
  stop.worker = w
  if stop.asked then
    w:stop()
  end
  w:serve()
  local released, message = w:release()
  if not released then
    log.warn("jobs not handed back", { reason = message })
  end
  conn:close()
end

local function on_signals(process, config, stop)
  for _, number in ipairs { signal.SIGTERM, signal.SIGINT } do
    signal.signal(number, function()
      if not stop.asked then
        process.limit(config.drain_time)
      end
      stop.asked = true
      if stop.worker then
        stop.worker:stop()
      end
    end)
  end
end

--- Works the queue until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn[1] integer exit code
-- @return[2] nil
-- @treturn[2] string message
function M.main(process)
  local config, store, ring, message
  config, message = process:load_config()
  if not config then
    return nil, message
  end
  store, message = storage.open(config)
  if not store then
    return nil, message
  end
  ring, message = keyring.ensure(config.keyring)
  if not ring then
    return nil, message
  end
  local stop = {}
  on_signals(process, config, stop)
  process:ready(config.database_timeout)
  serve(process, config, store, ring, stop)
  store:close()
  return 0
end

return M
