local config = require "config"
local database = require "daemon.database"
local launch = require "daemon.launch"
local remedy = require "daemon.remedy"
local term = require "cli.term"

local M = {
  example = "atelier serve\nDATABASE_URL=postgresql://… atelier serve --watch\n"
    .. "atelier serve --pid-file /run/atelier.pid",
}

function M.options(parser)
  parser:flag("--watch", "Take over changed scripts, templates and configuration as soon as they are saved.")
  parser:option("--pid-file", "Write the master's process id there while it runs."):argname "FILE"
  parser:description("Serves until told to stop: HTTP, workers and keeper, over the configured database.\n"
    .. "SIGTERM or Control-C drains and ends; a second one does not wait. SIGHUP reloads. Logs go to standard error.\n"
    .. "A database that is away is waited for; one whose schema is old is refused: run `atelier migrate`.\n"
    .. "With --json the object comes once it serves (url, pid, generation), or says why it does not.")
end

-- What can be known of the database before anything starts. That it is away is no reason not to: it may come.
local function look_at_database(values)
  local conn, message, code = database.connect(values, "serve")
  if conn then
    conn:close()
    return true
  elseif code == "no_database" or code == "schema" or code == "conninfo" then
    return nil, "serve: " .. message, code
  end
  local advice = remedy.find(message)
  io.stderr:write(term.yellow "atelier: warning: ", term.safe(message), "; the service starts and waits for it",
    advice and term.safe(": " .. advice) or "", "\n")
  return true
end

function M.run(args)
  local values, message, code = config.load()
  if not values then
    return nil, message, code
  end
  local started, ok
  started, message, code = launch.begin(values)
  if not started then
    return nil, message, code
  end
  ok, message, code = started:listen()
  if ok then
    ok, message, code = look_at_database(values)
  end
  if not ok then
    return nil, message, code
  end
  return started:go { watch = args.watch, pid_file = args.pid_file, json = args.json }
end

return M
