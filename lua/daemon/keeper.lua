--- The process "keeper": the keeper of lua/workflow, kept alive by the master and told to stop by it.
-- Owns the connection and the beat. Must not know what a round does.
-- @module daemon.keeper
local database = require "daemon.database"
local keeper = require "workflow.keeper"
local need = require("daemon.process").need
local storage = require "storage"

local M = {}

local PATIENCE = 300 -- seconds that a batch may take: a thousand objects of a remote store, with all their timeouts

local function serve(process, config, store, stop)
  local conn = database.await(process, config, stop)
  if not conn then
    return
  end
  local k
  local function turn()
    process:turn(k, PATIENCE)
  end
  k = keeper.new { conn = conn, store = store, config = config, on_tick = turn,
    connect = database.again(process, config, conn, turn) }
  turn()
  stop:tell(k)
  k:serve()
  k.conn:close()
end

--- Keeps house until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn integer exit code
function M.main(process)
  local config = process:load_config()
  local store = need(storage.open(config))
  local stop = process:on_stop(config.drain_time)
  process:ready(PATIENCE)
  serve(process, config, store, stop)
  store:close()
  return 0
end

return M
