--- The database: reach, version, schema, what its role may do, what a pooler takes away, the clock.
-- @module doctor.database
local migrate = require "migrate"
local pg = require "atelier.pg"
local remedy = require "daemon.remedy"

local M = {}

local OLDEST = 140000
local SKEW = 5 -- seconds

local function connect(patient, tell)
  local url = patient.config.database_url
  if not url then
    local private, message = require("postgres").ensure { dir = patient.config.state_dir .. "/postgres" }
    if not private then
      return tell("fail", "connection", message, "Install PostgreSQL, or set DATABASE_URL.")
    end
    url = private.url
  end
  local conn, message = pg.connect(url, { timeout = 10, application_name = "atelier doctor" })
  if not conn then
    local advice = remedy.find(message)
    return tell("fail", "connection", message, advice and advice:gsub("^%l", string.upper) .. "."
      or "Check DATABASE_URL: for Supabase, take the session pooler's (port 5432) or the direct one.")
  end
  patient.conn, patient.database_url = conn, url
  tell("ok", "connection", patient.config.database_url and "reached" or "the private cluster is up")
  return conn
end

local function version(conn, tell)
  local number = tonumber(conn:query("show server_version_num")[1].server_version_num)
  if number < OLDEST then
    tell("fail", "version", ("PostgreSQL %d"):format(number // 10000), "PostgreSQL 14 or newer is needed.")
  else
    tell("ok", "version", ("PostgreSQL %d.%d"):format(number // 10000, number % 10000))
  end
end

local function schema(conn, tell)
  local ok, message, code = migrate.require_current(conn)
  if ok then
    tell("ok", "schema", "all migrations are in place")
  elseif code == "42501" then -- insufficient_privilege: they may well be in place
    tell("fail", "schema", message,
      "As an administrator: grant authenticated, service_role to the role in DATABASE_URL.")
  else
    tell("fail", "schema", message, "Run: atelier migrate")
  end
  return ok
end

-- Whether the role of the connection may act for users and for the service.
local function roles(conn, tell)
  for _, role in ipairs { "authenticated", "service_role" } do
    local rows, message = conn:query("select set_config('role', $1, true) as role, current_user", { role })
    if not rows then
      tell("fail", "role " .. role, message,
        ("As an administrator: grant %s to the role in DATABASE_URL."):format(role))
    else
      tell("ok", "role " .. role, "may be taken on")
    end
  end
end

local function rows_hidden(conn, tell)
  local rows, message = conn:pipeline {
    { "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
      { '{"sub": "00000000-0000-4000-8000-000000000000", "role": "authenticated"}' } },
    { "select count(*) as seen from ate_files" },
  }
  if not rows then
    tell("fail", "row security", message, "Run: atelier migrate")
  elseif rows[2][1].seen > 0 then
    tell("fail", "row security", "a user who does not exist sees files of others",
      "Row level security is off or a policy is too wide: run atelier migrate, and look at your own policies.")
  else
    tell("ok", "row security", "a user who has nothing sees nothing")
  end
end

-- What a transaction pooler loses: the session between two transactions, and with it LISTEN and locks.
local function session(conn, tell)
  local first = conn:query "select pg_backend_pid() as pid"
  local ok = conn:query("select set_config('atelier.doctor', 'here', false)")
  local second = conn:query "select pg_backend_pid() as pid, current_setting('atelier.doctor', true) as mark"
  local same = first and ok and second and first[1].pid == second[1].pid and second[1].mark == "here"
  local heard = false
  if same and conn:listen "ate_doctor" then
    conn:query "select pg_notify('ate_doctor', 'here')"
    heard = #(conn:notifications(5) or {}) > 0
    conn:unlisten "ate_doctor"
  end
  if heard then
    tell("ok", "session", "keeps its state, and hears notifications")
  else
    tell("warn", "session", "does not last: this is a transaction pooler",
      "Use the session pooler (port 5432) or the direct connection: without them workers poll, and a dead one is "
      .. "noticed only when its lease is over.")
  end
end

local function clocks(conn, tell)
  local rows = conn:query "select extract(epoch from clock_timestamp())::float8 as now"
  local apart = rows and math.abs(rows[1].now - os.time()) or 0
  if apart > SKEW then
    tell("warn", "clock", ("%.0f s apart from the database's"):format(apart),
      "Set the clock that is wrong: let both hosts use NTP (timedatectl set-ntp true).")
  else
    tell("ok", "clock", "agrees with the database's")
  end
end

--- Examines; see `doctor`.
-- @tparam table patient
-- @tparam function tell
function M.run(patient, tell)
  local conn = connect(patient, tell)
  if not conn then
    return
  end
  version(conn, tell)
  clocks(conn, tell)
  if not schema(conn, tell) then
    return
  end
  patient.has_schema = true
  roles(conn, tell)
  rows_hidden(conn, tell)
  session(conn, tell)
end

return M
