--- What commands work with, opened when first asked for: configuration, database, store, key ring.
-- @module cli.session
local config = require "config"

local M = {}
local Session = {}

-- session.NAME opens NAME; failures are raised as {message, code} and come back from `M.with`.
function Session:__index(name)
  local open = Session["open_" .. name]
  if not open then
    return Session[name]
  end
  local value, message, code = open(self)
  if not value then
    error({ message = message, code = code }, 0)
  end
  rawset(self, name, value)
  return value
end

function Session.open_config()
  local values, message, code = config.load()
  if values then
    require("log").configure { level = values.log_level, format = values.log_format }
  end
  return values, message, code
end

-- The database's address: the configured one, or the private cluster's, started when it is not up.
function Session:open_url()
  if self.config.database_url then
    return self.config.database_url
  end
  local private, message, code = require("postgres").ensure {
    dir = self.config.state_dir .. "/postgres",
    say = function(sentence)
      io.stderr:write("atelier: ", sentence, "\n")
    end,
  }
  return private and private.url, message, code
end

function Session:open_conn()
  local pg = require "atelier.pg"
  return pg.connect(self.url, { timeout = 10, application_name = "atelier" })
end

-- A database whose schema this program knows.
function Session:open_database()
  local conn = self.conn
  local ok, message, code = require("migrate").require_current(conn)
  return ok and conn, message, code
end

function Session:open_store()
  return require("storage").open(self.config)
end

-- The one for templates: with Supabase a bucket of its own.
function Session:open_template_store()
  return require("storage").open_templates(self.config)
end

function Session:open_ring()
  return require("ate.keyring").load(self.config.keyring)
end

-- The ring, made on the first use: nothing to configure for the first run.
function Session:open_new_ring()
  return require("ate.keyring").ensure(self.config.keyring)
end

--- What is wrong with a configuration that can be done without, as a result's warnings.
-- @tparam {string,...} problems see `config.look`
-- @treturn {table,...}
function M.warnings(problems)
  local list = {}
  for i, problem in ipairs(problems) do
    list[i] = { code = "config", message = problem .. "; done without it" }
  end
  return list
end

local function close(session)
  for _, name in ipairs { "template_store", "store", "conn" } do
    local resource = rawget(session, name)
    if resource then
      resource:close()
    end
  end
end

--- Runs `f(session)` and closes what it opened.
-- @tparam function f
-- @return what f returns; or nil, message, code when something could not be opened
function M.with(f)
  local session = setmetatable({}, Session)
  local results = table.pack(xpcall(f, function(problem)
    return type(problem) == "table" and problem or debug.traceback(problem, 2)
  end, session))
  close(session)
  if results[1] then
    return table.unpack(results, 2, results.n)
  end
  local problem = results[2]
  if type(problem) == "table" and problem.message then
    return nil, problem.message, problem.code
  end
  error(problem, 0)
end

return M
