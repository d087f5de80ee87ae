--- The process "worker": a worker of lua/workflow, kept alive by the master and told to stop by it.
-- Owns the waiting for a database at the start, and the beat. Must not know how files are made.
-- @module daemon.worker
local database = require "daemon.database"
local keyring = require "ate.keyring"
local log = require "log"
local need = require("daemon.process").need
local storage = require "storage"
local worker = require "workflow.worker"

local M = {}

local function serve(process, config, store, ring, stop)
  local conn = database.await(process, config, stop)
  if not conn then
    return
  end
  local w
  local function turn(extra)
    process:turn(w, config.database_timeout + (extra or 0))
  end
  w = worker.new { conn = conn, store = store, ring = ring, config = config, on_turn = turn,
    connect = database.again(process, config, conn, turn) }
  stop:tell(w)
  w:serve()
  local released, message = w:release()
  if not released then
    log.warn("jobs not handed back", { reason = message })
  end
  w.queue.conn:close()
end

--- Works the queue until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn integer exit code
function M.main(process)
  local config = process:load_config()
  local store = need(storage.open(config))
  local ring = need(keyring.ensure(config.keyring))
  local stop = process:on_stop(config.drain_time)
  process:ready(config.database_timeout)
  serve(process, config, store, ring, stop)
  store:close()
  return 0
end

return M
