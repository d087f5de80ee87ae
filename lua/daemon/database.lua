--- The database of the service's processes: the configured one, or the private cluster, started when it is not up.
-- Must not know what is asked of it.
-- @module daemon.database
local log = require "log"
local remedy = require "daemon.remedy"

local M = {}

local CONNECT_SECONDS = 10

--- Where the database is. `up` alone may use a private cluster; the demo uses nothing else.
-- @tparam table config
-- @treturn[1] string address
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.url(config)
  local private = os.getenv "ATELIER_PRIVATE"
  if config.database_url and private ~= "only" then
    return config.database_url
  elseif not private then
    return nil, "no database: set DATABASE_URL, or use `atelier up`, which starts a private one", "no_database"
  end
  local cluster, message, code = require("postgres").ensure { dir = config.state_dir .. "/postgres" }
  return cluster and cluster.url, message, code
end

--- Connects, and sees that the schema is this program's.
-- @tparam table config
-- @tparam string name of the process, for the server's own lists
-- @treturn[1] conn
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.connect(config, name)
  local pg = require "atelier.pg"
  local url, conn, ok, message, code
  url, message, code = M.url(config)
  if not url then
    return nil, message, code
  end
  conn, message, code = pg.connect(url, { timeout = CONNECT_SECONDS, application_name = "atelier " .. name })
  if not conn then
    return nil, message, code
  end
  ok, message, code = require("migrate").require_current(conn)
  if not ok then
    conn:close()
    return nil, message, code
  end
  return conn
end

--- A way to connect anew, in place of a connection that is lost.
-- @tparam table process see `daemon.process`
-- @tparam table config
-- @param conn the lost one, which is closed
-- @tparam function turn called before each try
-- @treturn function which gives what `connect` gives
function M.again(process, config, conn, turn)
  return function()
    turn()
    conn:close()
    local opened, message, code = M.connect(config, process.name)
    conn = opened or conn
    return opened, message, code
  end
end

--- Connects, however long that takes; says so when what stands in the way has changed.
-- @tparam table process see `daemon.process`
-- @tparam table config
-- @tparam table stop see `process:on_stop`
-- @return conn, or nil when there is no need of one any more
function M.await(process, config, stop)
  local said
  while not stop.asked do
    local conn, message, code = M.connect(config, process.name)
    if conn then
      return conn
    elseif message ~= said then
      log.warn("database not reached", { reason = message, remedy = remedy.find(message), code = code })
      said = message
    end
    process:alive(config.database_timeout)
    if not process:listen(1) then
      return nil
    end
  end
end

return M
