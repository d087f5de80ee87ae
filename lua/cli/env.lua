local postgres = require "postgres"
local session = require "cli.session"

local M = {
  example = 'eval "$(atelier env)" && psql "$DATABASE_URL"',
}

function M.options(parser)
  parser:flag("--stop", "Stop the private Postgres instead; the next command that needs it starts it again.")
end

function M.run(args)
  return session.with(function(s)
    if args.stop then
      local stopped, message, code = postgres.stop { dir = s.config.state_dir .. "/postgres" }
      if stopped == nil then
        return nil, message, code
      end
      local message_of = { [true] = "the private Postgres is stopped", [false] = "no private Postgres runs" }
      return { stopped = stopped, message = message_of[stopped] }
    end
    return { database_url = s.url }
  end)
end

function M.show(result)
  if not result.database_url then
    print(result.message)
    return
  end
  print("DATABASE_URL='" .. result.database_url:gsub("'", "'\\''") .. "'")
end

return M
