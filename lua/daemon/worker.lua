--- The process "worker": a worker of lua/workflow, kept alive by the master and told to stop by it.
-- Owns the waiting for a database at the start, and the beat. Must not know how files are made.
-- @module daemon.worker
local database = require "daemon.database"
local keyring = require "ate.keyring"
local log = require "log"
local metrics = require "metrics"
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

local function serve(process, config, store, ring, stop)
  local conn = database.await(process, config, stop)
  if not conn then
    return
  end
  local w
  local saved_at = 0
  local function beat(extra)
    process:alive(config.database_timeout + (extra or 0))
    if not process:listen() then
      w:stop()
    end
    if os.time() ~= saved_at then
      saved_at = os.time()
      metrics.save()
    end
  end
  w = worker.new { conn = conn, store = store, ring = ring, config = config,
    connect = function()
      beat()
      conn:close()
      local opened, message, code = database.connect(config, process.name)
      conn = opened or conn
      return opened, message, code
    end }
  beat_in(w, "work", beat)
  beat_in(w.queue, "exchange", beat)
  beat_in(w.queue, "keep_lease", beat)
  stop:tell(w)
  w:serve()
  local released, message = w:release()
  if not released then
    log.warn("jobs not handed back", { reason = message })
  end
  conn:close()
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
  local stop = process:on_stop(config.drain_time)
  process:ready(config.database_timeout)
  serve(process, config, store, ring, stop)
  store:close()
  return 0
end

return M
