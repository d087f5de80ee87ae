--- What to do about a database that cannot be reached, as far as its own words tell.
-- libpq gives no code for a connection that was refused, so that only a server that speaks English is understood.
-- @module daemon.remedy
local M = {}

local REMEDIES = {
  { 'database "(.-)" does not exist', "create it (createdb '%s') and run `atelier migrate`, or correct DATABASE_URL" },
  { 'role "(.-)" does not exist', "create that role, or correct the user in DATABASE_URL" },
  { 'password authentication failed for user "(.-)"', "the password in DATABASE_URL is not that user's" },
  { "no password supplied", "put the password into DATABASE_URL, or into ~/.pgpass" },
  { "no pg_hba%.conf entry", "allow this host, user and database in the server's pg_hba.conf" },
  { "[Tt]enant or user not found", "for Supabase's pooler the user is postgres.PROJECT_REF, in its own region" },
  { "could not translate host name", "correct the host in DATABASE_URL" },
  { "Connection refused", "start Postgres there, or correct host and port in DATABASE_URL" },
  { "connection to server on socket .-: No such file", "start Postgres there, or correct the socket in DATABASE_URL" },
  { "too many clients", "raise max_connections, or set fewer fronts, workers or api_connections" },
  { "remaining connection slots", "raise max_connections, or set fewer fronts, workers or api_connections" },
  { "server does not support SSL", "set sslmode in DATABASE_URL to what the server offers" },
}

--- The remedy.
-- @tparam string message of a failed connect
-- @treturn ?string
function M.find(message)
  for _, remedy in ipairs(REMEDIES) do
    local name = message:match(remedy[1])
    if name then
      return (remedy[2]:gsub("%%s", function() return name end))
    end
  end
end

return M
