--- Migrations: brings a database's schema up to the SQL files that this program came with.
--
-- Owns the order and the locking; the bookkeeping is in migrate.records. Must not know what is
-- in the files: each is re-runnable, so that a changed one is simply run again, and one that was pasted into
-- an SQL editor before does no harm. Works through any role that may create tables in schema public.
--
-- @module migrate
local files_of = require "migrate.files"
local records_of = require "migrate.records"

local M = {}

local LOCK = 0x4174656c -- the advisory lock's number
local LOCK_WAIT = 60 -- seconds
local FILE_TIMEOUT = 600 -- seconds for one file
local OPTIONS = { conn = true, dir = true, dry_run = true, force = true, on_event = true, lock_wait = true }

local function problem(code, format, ...)
  return nil, "migrate: " .. format:format(...), code
end

local function check_options(options)
  for name in pairs(options) do
    if not OPTIONS[name] then
      error(("unknown option '%s'"):format(tostring(name)), 3)
    end
  end
  return options
end

local function refuse_newer(files, records, force)
  local names = records_of.newer(files, records)
  if #names > 0 and not force then
    return problem("newer", "the database is newer than this program: it has %s; install the newer program",
      table.concat(names, ", "))
  end
  return true
end

local function survey(options)
  local files, message, code = files_of.read(options.dir)
  if not files then
    return nil, message, code
  end
  local records
  records, message, code = records_of.read(options.conn)
  if not records then
    return nil, message, code
  end
  return files, records
end

-- ==== running ==================================================================================

-- Taken within the transaction, so that it holds behind a pooler too and is never left behind.
local function lock(conn, options)
  local got, message, code = conn:query("select pg_try_advisory_xact_lock($1) as ok", { LOCK })
  if not got or got[1].ok then
    return got, message, code
  end
  local wait = options.lock_wait or LOCK_WAIT
  options.on_event { state = "waiting", message = "another process is migrating this database" }
  local sql = "set local lock_timeout = %d; select pg_advisory_xact_lock(%d); set local lock_timeout = 0"
  got, message, code = conn:exec(sql:format(math.ceil(wait * 1000), LOCK), { timeout = wait + 10 })
  if code == "55P03" or code == "timeout" then
    return problem("locked", "another process has been migrating this database for over %g s", wait)
  end
  return got, message, code
end

-- The server counts characters; a person counts lines.
local function line_of(text, position)
  local byte = position and utf8.offset(text, tonumber(position)) or 1
  local _, newlines = text:sub(1, byte - 1):gsub("\n", "")
  return newlines + 1
end

local function run_text(conn, file)
  local done, message, code = conn:exec(file.text, { timeout = FILE_TIMEOUT })
  if not done then
    local failure = conn:last_error()
    return problem(code, "%s: line %d: %s", file.name, line_of(file.text, failure.position),
      (message:gsub("^exec: ", "")))
  end
  if conn:status() ~= "transaction" then
    return problem("migration", "%s: a migration must not begin or end a transaction", file.name)
  end
  return true
end

-- One file in one transaction, decided anew under the lock: another process may have been faster.
local function apply(conn, file, options)
  local began = false
  local state, message, code = conn:transaction(function()
    local ok, why, kind = lock(conn, options)
    if not ok then
      return nil, why, kind
    end
    local records
    records, why, kind = records_of.read(conn)
    if not records then
      return nil, why, kind
    end
    local before = records_of.state(file, records)
    if before == "applied" or before == "not needed" then
      return before == "applied" and "unchanged" or before
    elseif before == "newer" and not options.force then
      return refuse_newer({ file, [file.name] = file }, records)
    end
    began = true
    options.on_event { name = file.name, state = "running" }
    ok, why, kind = run_text(conn, file)
    if ok then
      ok, why, kind = conn:query(records_of.RECORD, { file.name, file.checksum })
    end
    return ok and (before == "pending" and "applied" or "updated"), why, kind
  end, { timeout = FILE_TIMEOUT })
  if not state and began and not message:find(file.name, 1, true) then
    return problem(code, "%s: %s", file.name, message) -- deferred constraints speak at the commit
  end
  return state, message, code
end

local function create_table(conn, options)
  return conn:transaction(function()
    local ok, message, code = lock(conn, options)
    local records
    if ok then
      records, message, code = records_of.read(conn)
    end
    if not records then
      return nil, message, code
    elseif records.exists then
      return true
    end
    return conn:exec(records_of.CREATE .. ";" .. records_of.PROTECT)
  end)
end

local WOULD = { applied = "unchanged", pending = "would_apply", changed = "would_update", newer = "would_update" }

local function dry_run(files, records)
  local list = {}
  for i, file in ipairs(files) do
    local state = records_of.state(file, records)
    list[i] = { name = file.name, state = WOULD[state] or state }
  end
  return list
end

local function run_all(files, options)
  local conn, list, touched = options.conn, {}, false
  for i, file in ipairs(files) do
    local state, message, code = apply(conn, file, options)
    if not state then
      return nil, message, code
    end
    touched = touched or state == "applied" or state == "updated"
    list[i] = { name = file.name, state = state }
    options.on_event(list[i])
  end
  if touched then -- the roles may be new
    local ok, message, code = conn:exec(records_of.PROTECT)
    if not ok then
      return nil, message, code
    end
  end
  return list
end

--- Runs what is not yet there, in the order of the names, each file in a transaction of its own.
-- @tparam table options `conn`; `dir` of the SQL files; `dry_run`: say what would be done, touch nothing;
--   `on_event`: a function called with `{name, state, message}` as it goes ("waiting", "running", then as below);
--   `lock_wait`: seconds to wait for another migrating process (60); `force`: put this program's older files
--   over newer ones
-- @treturn[1] table list of `{name, state}`: "applied", "updated" (it had changed), "unchanged", "not needed"; with
--   `dry_run` "would_apply" and "would_update" instead of the first two
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "newer", "locked", "migration" (a bad file), or a code of atelier.pg
function M.run(options)
  local settings = {}
  for name, value in pairs(check_options(options)) do
    settings[name] = value
  end
  settings.on_event = options.on_event or function() end
  local files, records, code = survey(settings)
  if not files then
    return nil, records, code
  end
  local ok, message
  ok, message, code = refuse_newer(files, records, settings.force)
  if not ok then
    return nil, message, code
  elseif settings.dry_run then
    return dry_run(files, records)
  end
  if not records.exists then
    ok, message, code = create_table(settings.conn, settings)
    if not ok then
      return nil, message, code
    end
  end
  return run_all(files, settings)
end

--- Says how the database stands, and changes nothing.
-- @tparam table options `conn`, `dir`
-- @treturn[1] table list of `{name, state, applied_at}`: "applied", "changed", "pending", "not needed", "newer"
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.status(options)
  local files, records, code = survey(check_options(options))
  if not files then
    return nil, records, code
  end
  local list = {}
  for i, file in ipairs(files) do
    local record = records.by_name[file.name]
    list[i] = { name = file.name, state = records_of.state(file, records), applied_at = record and record.applied_at }
  end
  for name, record in pairs(records.by_name) do
    if not files[name] then
      list[#list + 1] = { name = name, state = "newer", applied_at = record.applied_at }
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- Whether a worker may use this database: it has all that this program's files bring. A newer one may serve
-- an older program for as long as an upgrade takes.
-- @param conn connection
-- @tparam[opt] string dir of the SQL files
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "schema", or a code of atelier.pg
function M.require_current(conn, dir)
  local list, message, code = M.status { conn = conn, dir = dir }
  if not list then
    return nil, message, code
  end
  local missing = {}
  for _, migration in ipairs(list) do
    if migration.state == "pending" or migration.state == "changed" then
      missing[#missing + 1] = migration.name
    end
  end
  if #missing > 0 then
    return problem("schema", "the database lacks %s: run `atelier migrate`", table.concat(missing, ", "))
  end
  return true
end

return M
