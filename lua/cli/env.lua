local session = require "cli.session"

local M = {
  summary = "Print DATABASE_URL of the database in use, for the shell.",
  example = 'eval "$(atelier env)" && psql "$DATABASE_URL"',
}

function M.options() end

function M.run()
  return session.with(function(s)
    return { database_url = s.url }
  end)
end

function M.show(result)
  print("DATABASE_URL='" .. result.database_url:gsub("'", "'\\''") .. "'")
end

return M
