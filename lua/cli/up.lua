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
    .. "command started stops with it (for root it runs as user postgres); one that ran already goes on.")
end

local function say(label, text)
  io.stderr:write(("  %s %-10s %s\n"):format(term.green "✔", label, text))
end

local function exists(path)
  return stat.stat(path) ~= nil
end

-- The private cluster is this service's to stop when it started it, or when a service did that was then killed.
local function own_postgres(s, mark)
  local dir = s.config.state_dir .. "/postgres"
  local cluster, message, code = postgres.ensure { dir = dir, say = function(text)
    say("Postgres", text)
  end }
  if not cluster then
    error({ message = message, code = code }, 0)
  end
  s.url = cluster.url
  if cluster.started then
    local file = io.open(mark, "w")
    if file then
      file:close()
    end
  end
  say("Postgres", ("private cluster in %s, unix socket only"):format(cluster.home))
  return exists(mark) and dir or nil
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

--- Database, schema, templates and keys: all that a service needs.
-- @tparam table s session
-- @tparam string mark file that says that the private cluster is ours to stop
-- @treturn[1] boolean true
-- @treturn[1] ?string folder of the private cluster to stop at the end
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.prepare(s, mark)
  local dir = not s.config.database_url and own_postgres(s, mark) or nil
  local applied, message, code = migrate.run { conn = s.conn, dir = host.root .. "/sql" }
  if not applied then
    return nil, message, code
  end
  say("Schema", ("%d migrations in place"):format(#applied))
  local ok
  ok, message, code = publish_shipped(s)
  return ok and s.new_ring and true, ok and dir or message, code
end

function M.run(args)
  local started, port, dir, is_private
  local prepared, message, code = session.with(function(s)
    local ok, problem, why
    started, problem, why = launch.begin(s.config)
    if started then
      port, problem, why = started:listen()
    end
    if not port then
      return nil, problem, why
    end
    is_private = s.config.database_url == nil
    ok, dir, why = M.prepare(s, started.run .. "/postgres")
    return ok, dir, why
  end)
  if not prepared then
    return nil, message, code
  end
  return started:go { watch = args.watch, pid_file = args.pid_file, postgres = dir,
    env = is_private and { ATELIER_PRIVATE = "1" } or nil }
end

return M
