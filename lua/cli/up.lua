local dirent = require "posix.dirent"
local host = require "atelier.host"
local launch = require "daemon.launch"
local migrate = require "migrate"
local postgres = require "postgres"
local session = require "cli.session"
local stat = require "posix.sys.stat"
local term = require "cli.term"

local M = {
  example = "atelier up\natelier up --watch",
}

function M.options(parser)
  parser:flag("--watch", "Take over changed scripts, templates and configuration as soon as they are saved.")
  parser:option("--pid-file", "Write the master's process id there while it runs."):argname "FILE"
  parser:description("Everything at once: a private Postgres unless DATABASE_URL is set, its schema, the shipped\n"
    .. "templates when none is published, keys; then it serves as `atelier serve` does. A Postgres that this\n"
    .. "command started stops with it (for root it runs as user postgres); one that ran already goes on.\n"
    .. "With --json the object comes once it serves (url, pid, generation), or says why it does not.")
end

local function say(label, text)
  io.stderr:write(("  %s %-10s %s\n"):format(term.green "✔", label, text))
end

local function exists(path)
  return stat.stat(path) ~= nil
end

local function private_postgres(s, started)
  local cluster, message, code = postgres.ensure { dir = s.config.state_dir .. "/postgres", say = function(text)
    say("Postgres", text)
  end }
  if not cluster then
    return nil, message, code
  end
  s.url = cluster.url
  if cluster.started then
    started:own_postgres()
  end
  say("Postgres", ("private cluster in %s, unix socket only"):format(cluster.home))
  return true
end

local function publish_shipped(s)
  local rows, message, code = s.database:query "select count(*)::int as n from ate_templates"
  if not rows then
    return nil, message, code
  end
  if rows[1].n > 0 or not exists(s.config.templates_dir) then
    return true
  end
  local names = dirent.dir(s.config.templates_dir)
  table.sort(names)
  for _, folder in ipairs(names) do
    local name = folder:match "^(.+)%.at$"
    if name then
      local published
      published, message, code = require("cli.template").publish(s, name)
      if not published then
        return nil, message, code
      end
      say("Template", published.name .. " " .. published.version .. " published")
    end
  end
  return true
end

-- Database, schema, templates and keys: all that a service needs.
local function prepare(s, started)
  local ok, message, code = true, nil, nil
  if not s.config.database_url then
    ok, message, code = private_postgres(s, started)
  end
  if ok then
    ok, message, code = migrate.run { conn = s.conn, dir = host.root .. "/sql" }
  end
  if not ok then
    return nil, message, code
  end
  say("Schema", ("%d migrations in place"):format(#ok))
  ok, message, code = publish_shipped(s)
  return ok and s.new_ring and true, message, code
end

function M.run(args)
  local started, is_private
  local ready, message, code = session.with(function(s)
    local ok, problem, why
    started, problem, why = launch.begin(s.config)
    if not started then
      return nil, problem, why
    end
    ok, problem, why = started:listen()
    if not ok then
      return nil, problem, why
    end
    is_private = s.config.database_url == nil
    return prepare(s, started)
  end)
  if not ready then
    return nil, message, code
  end
  say("Service", started:url() .. "/dashboard")
  return started:go { watch = args.watch, pid_file = args.pid_file, json = args.json,
    private = is_private and "1" or nil }
end

return M
