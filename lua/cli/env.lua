local launch = require "daemon.launch"
local postgres = require "postgres"
local session = require "cli.session"
local status = require "cli.status"

local M = {
  example = 'eval "$(atelier env)" && psql "$DATABASE_URL"',
}

function M.options(parser)
  parser:description("Prints the address of the database in use. A DATABASE_URL of the environment is not repeated,\n"
    .. "and a password is never printed.")
  parser:flag("--stop", "Stop the private Postgres instead; the next command that needs it starts it again.")
end

-- A URL without the password that it may hold; nil where that cannot be told for sure.
local function without_password(url)
  local scheme, login, rest = url:match "^(postgres%a*://)([^/?#]*)@([^@]*)$"
  if scheme then
    url = scheme .. login:match "^[^:]*" .. "@" .. rest
  elseif url:find("@", 1, true) then -- libpq takes a password with "?" and "#", too
    return nil
  end
  return url:find "^postgres%a*://" and not url:lower():find("password", 1, true) and url or nil
end

-- One that is in the environment is set already; of one in the file, psql asks for the password.
local function configured(values)
  local set = os.getenv "DATABASE_URL"
  if set and set ~= "" then
    return { configured = true, message = "DATABASE_URL is set in the environment" }
  end
  local url = without_password(values.database_url)
  if not url then
    return { configured = true, message = "database_url of the configuration holds a password: it is not printed" }
  end
  local left_out = url ~= values.database_url
  return { configured = true, database_url = url, warnings = left_out and {
    { code = "password", message = "the password of database_url is left out" } } or nil }
end

-- Whether a service uses the private cluster: only one with ATELIER_PRIVATE does.
local function user_of(config)
  local state = launch.state(config)
  local file <close> = state and status.is_master(state.pid) and io.open(("/proc/%d/environ"):format(state.pid)) or nil
  local is_private = file and ("\0" .. (file:read "a" or "")):find("\0ATELIER_PRIVATE=", 1, true)
  return is_private and state.pid or nil
end

local function stop(s)
  local pid = user_of(s.config)
  if pid then
    return nil, ("env --stop: the service that runs, process %d, would start it again at once: end that first (`kill "
      .. "%d`); it stops a private Postgres that it started"):format(pid, pid), "running"
  end
  local stopped, message, code = postgres.stop { dir = s.config.state_dir .. "/postgres" }
  if stopped == nil then
    return nil, message, code
  end
  local message_of = { [true] = "the private Postgres is stopped", [false] = "no private Postgres runs" }
  return { stopped = stopped, message = message_of[stopped] }
end

function M.run(args)
  return session.with(function(s)
    if args.stop then
      return stop(s)
    end
    if s.config.database_url then
      return configured(s.config)
    end
    return { database_url = s.url, configured = false }
  end)
end

function M.show(result)
  if not result.database_url then
    print((result.configured and "# " or "") .. result.message) -- a comment for `eval`
    return
  end
  print("DATABASE_URL='" .. result.database_url:gsub("'", "'\\''") .. "'")
end

return M
