local migrate = require "migrate"
local host = require "atelier.host"
local session = require "cli.session"
local term = require "cli.term"

local M = {
  example = "atelier migrate --dry-run\natelier migrate\natelier migrate --status --json",
}

function M.options(parser)
  parser:mutex(
    parser:flag("--dry-run", "Say what would run and change nothing."),
    parser:flag("--status", "Say what is applied, changed or pending.")
  )
end

function M.run(args)
  return session.with(function(s)
    local dir = host.root .. "/sql"
    if args.status then
      local status, message, code = migrate.status { conn = s.conn, dir = dir }
      return status and { migrations = status }, message, code
    end
    local applied, message, code = migrate.run { conn = s.conn, dir = dir, dry_run = args.dry_run }
    local said = args.dry_run and "nothing was changed" or nil
    return applied and { migrations = applied, dry_run = args.dry_run, message = said }, message, code
  end)
end

function M.show(result)
  local rows = {}
  for _, migration in ipairs(result.migrations) do
    rows[#rows + 1] = { migration.name, (migration.state:gsub("_", " ")) }
  end
  term.columns({ "migration", "state" }, rows)
end

return M
