--- What the specs of sql/ share: databases with the migrations applied, and people in them.
--
-- @module spec.sql.database
local clock = require "clock"
local pg = require "atelier.pg"
local poll = require "posix.poll"
local support = require "spec.support.postgres"

local M = {}

local PATIENCE <const> = { timeout = 120 } -- seconds: of many sessions at once on a slow machine, too

M.MIGRATIONS = { "00_platform", "10_ate_file_system", "11_ate_helper_functions", "12_ate_operations", "13_ate_api",
  "14_ate_keeper" }
M.SHA = ("a"):rep(64)

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

--- Pastes a migration whole, as an SQL editor does.
-- @tparam string conninfo
-- @tparam string name without its ending
function M.paste(conninfo, name)
  support.run(conninfo, slurp("sql/" .. name .. ".sql"))
end

--- Pastes them all.
-- @tparam string conninfo
function M.migrate(conninfo)
  for _, name in ipairs(M.MIGRATIONS) do
    M.paste(conninfo, name)
  end
end

--- Runs a fixture as superuser.
-- @tparam string conninfo
-- @tparam string name without folder and ending
function M.fixture(conninfo, name)
  support.run(conninfo, slurp("spec/sql/fixtures/" .. name .. ".sql"))
end

--- A database of its own with the migrations and the template smartgram.
-- @treturn string conninfo
function M.fresh()
  return support.database("sql", support.template("sql", function(conninfo)
    M.migrate(conninfo)
    support.run(conninfo, [[
      insert into auth.users (id, email) select ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n || '@example.com'
        from generate_series(1, 9) n;
      select publish_ate_template('smartgram', '1.0.0', 'templates/smartgram.at/', '[]', '[]', repeat('a', 64));
      create role login_service login in role service_role;
      create role login_user login in role authenticated;
      create role login_api login noinherit in role anon, authenticated, service_role;
    ]])
  end))
end

local Session = {}
Session.__index = Session

--- A connection with short words for what specs do.
-- @tparam string conninfo
-- @treturn table session: conn, query, one, value, refused, close
function M.session(conninfo)
  return setmetatable({ conn = assert(pg.connect(conninfo, { timeout = 120 })) }, Session)
end

function Session:query(sql, params)
  local rows, message, state = self.conn:query(sql, params, PATIENCE)
  if not rows then
    error(("%s: %s"):format(state, message), 2)
  end
  return rows
end

function Session:one(sql, params)
  return self:query(sql, params)[1]
end

function Session:value(sql, params)
  return self:query("select (select " .. sql .. ") as v", params)[1].v
end

--- Runs what must fail and gives SQLSTATE, message and the error's particulars.
function Session:refused(sql, params)
  local rows, message, state = self.conn:query(sql, params, PATIENCE)
  assert(not rows, "this was not refused: " .. sql)
  return state, message, self.conn:last_error()
end

function Session:close()
  self.conn:close()
end

--- A session whose work `finish` undoes, so that the specs of a database do not meet.
-- @tparam string conninfo
-- @treturn table session
function M.begin(conninfo)
  local s = M.session(conninfo)
  s:query "begin"
  return s
end

--- Ends what `begin` began, and sees that no connection is left open.
-- @tparam table s session
function M.finish(s)
  s:query "rollback"
  M.close(s)
end

--- Closes sessions, and sees that no connection is left open.
-- @param ... sessions
function M.close(...)
  for _, s in ipairs { ... } do
    s:close()
  end
  collectgarbage()
  collectgarbage()
  assert(pg.live_handles() == 0, "connections are left open")
end

--- As the API does it: a role and claims for one transaction.
-- @tparam string role
-- @tparam string claims JSON
-- @tparam function f called with the session
function Session:as(role, claims, f)
  self:query "begin"
  self:query("select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)", { claims, role })
  local ok, problem = pcall(f, self)
  self:query "rollback"
  assert(ok, problem)
end

--- A device with all that it needs, of user n.
-- @tparam table p hash, user, plan, status, subscription, licence (SQL expression or false)
-- @treturn string id
function Session:device(p)
  local id = self:one([[insert into devices (user_id, device_hash, status, trial_ends_at, created_at)
    values (('00000000-0000-0000-0000-' || lpad($1::text, 12, '0'))::uuid, $2, $3, now() + $4::interval,
      coalesce($5::timestamptz, clock_timestamp())) returning id]],
    { p.user or 1, p.hash, p.status or "active", p.trial or pg.null, p.created or pg.null }).id
  if p.subscription ~= false then
    self:query("insert into subscriptions (device_id, status, plan_id) values ($1, $2, $3)",
      { id, p.subscription or "active", p.plan or "starter" })
  end
  if p.licence ~= false then
    self:query("insert into licenses (device_id, is_valid, expires_at) values ($1, $2, now() + $3::interval)",
      { id, p.valid ~= false, p.licence or "30 days" })
  end
  return id
end

--- Forgets all jobs, so that a spec starts with an empty queue.
function Session:clear()
  self:query "delete from file_generation_queue"
end

--- Ends a claimed job well.
-- @tparam table job a row of claim_ate_generations
-- @treturn string id of the file
function Session:complete(job)
  return self:value("complete_ate_generation($1, $2, 1000, $3, $3, $4)",
    { job.queue_id, ("generated/%s/smartgram_%s_%d.ate"):format(job.device_hash, job.queue_id, job.attempt), M.SHA,
      job.attempt })
end

--- Waits until a session waits for a lock; that it does is what the spec is about.
-- @tparam integer pid its backend
-- @tparam[opt] string name of its statement, as a pattern, where it waits for a while only: it may have ended before
--   this one looks
function Session:await_blocked(pid, name)
  local deadline = clock.now() + 60
  repeat
    if self:value([[coalesce(wait_event_type = 'Lock', false) or state = 'idle' and $2 <> '' and query ~ $2
      from pg_stat_activity where pid = $1]], { pid, name or "" }) == true then return end
    self:query "select pg_stat_clear_snapshot()"
  until clock.now() > deadline
  error("nothing waits", 2)
end

--- Buys for devices: what each has is to be built anew. Committed or not, as the session is.
-- @param ... device hashes
function Session:buy(...)
  for _, hash in ipairs { ... } do
    self:query([[update licenses set expires_at = expires_at + interval '1 day'
      where device_id = (select id from devices where device_hash = $1)]], { hash })
  end
end

--- Asks until the numbers that came make a sum: there is little time for one by one in each call, and what a busy
-- machine did not come to is for the next one.
-- @tparam integer want
-- @tparam string sql gives a number
-- @treturn integer sum
function Session:in_all(want, sql)
  local deadline, sum = clock.now() + 60, 0
  repeat
    sum = sum + self:value(sql)
  until sum >= want or clock.now() > deadline
  return sum
end

--- Sends a statement without waiting for it; the function that is given back waits.
-- @tparam string conninfo
-- @tparam string sql
-- @treturn function gives rows, or nil, message, SQLSTATE
function M.background(conninfo, sql)
  local conn
  local routine = coroutine.create(function()
    conn = assert(pg.connect(conninfo, { yield = true, timeout = 120 }))
    return conn:query(sql, {}, PATIENCE)
  end)
  local results
  local function step()
    results = table.pack(coroutine.resume(routine))
    assert(results[1], results[2])
  end
  local function wait(seconds)
    poll.poll({ [conn and conn:socket() or -1] = { events = { IN = true } } }, math.floor(seconds * 1000))
    step()
  end
  repeat
    step()
  until conn
  -- The statement is on its way once the connection has yielded with it.
  return function()
    while coroutine.status(routine) ~= "dead" do
      wait(0.01)
    end
    conn:close()
    return table.unpack(results, 2, results.n)
  end, conn
end

return M
