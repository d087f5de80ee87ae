--- What the specs of atelier.pg share: a database with a table, a connection for each spec, and a small loop.
--
-- @module spec.support.pg
local assert = require "luassert"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"

local M = {}

local opened = {}

--- Opens a connection that is closed when the spec is over; patient beyond what a slow machine needs.
-- @tparam[opt] table options as of pg.connect
function M.connect(options)
  local patient = { timeout = 120, cancel_timeout = 60 }
  for name, option in pairs(options or {}) do patient[name] = option end
  local c = assert(pg.connect(M.url, patient))
  opened[#opened + 1] = c
  return c
end

--- For `setup`: the database, with table t (a int primary key, b text).
-- @treturn string conninfo
function M.open()
  M.url = postgres.database("pg")
  postgres.run(M.url, "create table t (a int primary key, b text)")
  return M.url
end

--- For `before_each`: the connection of this spec, which `value` and `asleep` use.
function M.begin()
  M.conn = M.connect()
  return M.conn
end

--- For `after_each`: nothing is left open.
function M.finish()
  for i = #opened, 1, -1 do
    opened[i]:close()
    opened[i] = nil
  end
  M.conn = nil
  collectgarbage()
  collectgarbage()
  assert.equal(0, pg.live_handles())
end

--- The value of an SQL expression.
function M.value(sql, params)
  return assert(M.conn:query("select " .. sql .. " as v", params))[1].v
end

--- Asserts the triple and gives the message.
function M.refused(code, result, message, got)
  assert.is_nil(result)
  assert.equal(code, got)
  assert.is_string(message)
  return message
end

--- Asserts that a call raises, and how.
function M.raises(text, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(text, message, 1, true)
end

--- The host's loop in small: waits on each connection in turn and resumes its coroutine.
function M.drive(co, c)
  local turns = 0
  local result = table.pack(coroutine.resume(co))
  while coroutine.status(co) ~= "dead" do
    assert.equal(c, result[2])
    c:wait(c:timeout())
    turns = turns + 1
    result = table.pack(coroutine.resume(co, "dropped", turns))
  end
  assert(result[1], result[2])
  return turns, table.unpack(result, 2, result.n)
end

--- Calls f while a child sends one signal after the other.
function M.in_a_storm(f)
  local signal, unistd, wait = require "posix.signal", require "posix.unistd", require "posix.sys.wait"
  local parent = unistd.getpid()
  local old = signal.signal(signal.SIGUSR1, function() end)
  local child = unistd.fork()
  if child == 0 then
    while signal.kill(parent, signal.SIGUSR1) do end
    unistd._exit(0)
  end
  local results = table.pack(f())
  signal.kill(child, signal.SIGKILL)
  wait.wait(child)
  signal.signal(signal.SIGUSR1, old)
  return table.unpack(results, 1, results.n)
end

--- Waits until the server sleeps for the connection: a cancel before that would do nothing.
function M.asleep(c)
  local sql = "select count(*) as n from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'"
  while assert(M.conn:query(sql, { c:backend_pid() }))[1].n == 0 do
    c:step()
  end
end

return M
