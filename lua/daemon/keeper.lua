--- The process "keeper": the keeper of lua/workflow, kept alive by the master and told to stop by it.
-- Owns the connection and the beat. Must not know what a round does.
-- @module daemon.keeper
local database = require "daemon.database"
local keeper = require "workflow.keeper"
local metrics = require "metrics"
local storage = require "storage"

local M = {}

local PATIENCE = 300 -- seconds that a batch may take: a thousand objects of a remote store, with all their timeouts

local function serve(process, config, store, stop)
  local conn = database.await(process, config, stop)
  if not conn then
    return
  end
  local k
  local function beat()
    process:alive(PATIENCE)
    if not process:listen() then
      k:stop()
    end
    metrics.save(1)
  end
  k = keeper.new { conn = conn, store = store, config = config, on_tick = beat,
    connect = function()
      beat()
      conn:close()
      local opened, message, code = database.connect(config, process.name)
      conn = opened or conn
      return opened, message, code
    end }
  beat()
  stop:tell(k)
  k:serve()
  conn:close()
end

--- Keeps house until told to stop.
-- @tparam table process see `daemon.process`
-- @treturn[1] integer exit code
-- @return[2] nil
-- @treturn[2] string message
function M.main(process)
  local config, store, message
  config, message = process:load_config()
  if not config then
    return nil, message
  end
  store, message = storage.open(config)
  if not store then
    return nil, message
  end
  local stop = process:on_stop(config.drain_time)
  process:ready(PATIENCE)
  serve(process, config, store, stop)
  store:close()
  return 0
end

return M
