--- The statements of a front: each runs as the caller, or with the service's rights.
--
-- Role and claims are set in the same implicit transaction, sent in one piece, so that nothing of one request is left
-- for the next. Owns what is prepared on which connection, and what is repeated. Must not know any statement. Works
-- inside the loop of atelier.httpd only.
-- @module api.database
local httpd = require "atelier.httpd"
local lanes = require "api.lanes"
local log = require "log"
local pool = require "api.pool"

local M = {}

local Database = {}
Database.__index = Database

-- Sets role and claims; gives no row, since nobody reads what it would echo. The conditions are never true. The subject
-- is there once more under its older name, where auth.uid() looks first: it need not parse a whole token's claims then.
local AS_USER = [[select where set_config('role', 'authenticated', true) is null
  or set_config('request.jwt.claims', $1, true) is null or set_config('request.jwt.claim.sub', $2, true) is null]]
local AS_SERVICE = [[select where set_config('role', 'service_role', true) is null
  or set_config('request.jwt.claims', '{"role": "service_role"}', true) is null]]

-- ==== statements ===============================================================================

local KINDS = {
  user = { { prepared = "ate_as_user", {} }, { AS_USER, {} } },
  service = { { prepared = "ate_as_service", {} }, { AS_SERVICE, {} } },
}

-- What is sent for a statement: the role, the statement, and what prepares it where that is not done.
local function compose(slot, plain, kind, user, name, sql, params)
  local role = KINDS[kind][plain and 2 or 1]
  if user then
    local given = role[plain and 2 or 1]
    given[1], given[2] = user.text, user.id
  end
  local batch = slot.batch
  batch[1] = role
  if plain then
    batch[2], batch[3] = { sql, params }, nil
    return batch
  end
  local item = slot.item
  item.prepared, item[1] = name, params
  if slot.prepared[name] == sql then
    batch[2], batch[3] = item, nil
  elseif slot.prepared[name] then
    error(("database: two statements have the name %q"):format(name), 0)
  else
    batch[2], batch[3] = { ("prepare %s as %s"):format(name, sql) }, item
  end
  return batch
end

-- After these a connection is not what it was: a failover's former primary, a plan that fits no more.
local OUTDATED <const> = "0A000"
local GIVE_UP = { ["25006"] = true, [OUTDATED] = true }
local NOT_PREPARED = { ["26000"] = true, ["42P05"] = true }

-- Forgets a statement that a migration has outdated; whoever leaves meanwhile takes the connection along.
local function forget(slot, deadline, name)
  slot.is_spent = true
  local done = slot.conn:pipeline({ { "deallocate " .. name } }, { timeout = math.max(deadline - httpd.now(), 0.001) })
  slot.prepared[name], slot.is_spent = nil, not done or nil
  return done
end

-- The cancelling of a statement that takes too long comes on top, as the pool says.
local function run(slot, self, deadline, kind, user, name, sql, params)
  local left = deadline - httpd.now()
  if left <= 0 then
    return nil, "database: not done in time", "timeout"
  end
  local conn = slot.conn
  local batch = compose(slot, self.is_plain, kind, user, name, sql, params)
  local count = #batch
  slot.is_clean, slot.options.timeout = false, left
  slot.is_spent = count == 3 -- who leaves now does not learn whether it was prepared: the connection goes, too
  local results, message, code, place = conn:pipeline(batch, slot.options)
  slot.is_spent = nil
  if count == 3 and (results or (place or 0) > 2) then
    slot.prepared[name] = sql
  end
  if results then
    slot:answered()
    return results[count]
  end
  local fields = conn:last_error()
  if NOT_PREPARED[code] and not self.is_plain then
    log.warn("the database keeps no prepared statements; is it behind a transaction pooler?", { code = code })
    self.is_plain = true
    return run(slot, self, deadline, kind, user, name, sql, params)
  end
  if code == OUTDATED and count == 2 and not self.is_plain and forget(slot, deadline, name) then
    return run(slot, self, deadline, kind, user, name, sql, params) -- nothing has happened; prepares it again
  end
  slot.is_spent = GIVE_UP[code]
  return nil, message, code, fields
end

local function once(self, deadline, ...)
  local slot <close>, message, code = self.pool:take(deadline)
  if not slot then
    return nil, message, code
  end
  return run(slot, self, deadline, ...)
end

local LOST = { connection = true, ["57P01"] = true, ["57P02"] = true, ["57P03"] = true }

local function perform(self, deadline, may_repeat, ...)
  local rows, message, code, fields = once(self, deadline, ...)
  if not rows and may_repeat and LOST[code] and not self.pool.failure then
    return once(self, deadline, ...)
  end
  return rows, message, code, fields
end

-- A waiter of api.lanes whose statement this connection has not prepared yet.
local function run_alone(self)
  return function(slot, waiter)
    return run(slot, self, waiter.deadline, "user", waiter.user, waiter.prepared, waiter.sql, waiter[1])
  end
end

-- A mistake of the statement or its data, which says nothing of the connection, nor of what is prepared there.
local OWN = { ["21"] = true, ["22"] = true, ["23"] = true, ["42"] = true, P0 = true, AT = true }

local function is_own(code)
  return OWN[code:sub(1, 2)] and not NOT_PREPARED[code]
end

--- Runs a statement as a user. Waiting, for a connection and for the answer, has one end: the timeout.
-- @tparam table user `text`: the verified token's claims, as JSON; `id`: their subject
-- @tparam string name under which it is prepared: letters, digits, _
-- @tparam string sql always the same for a name
-- @tparam[opt] table params
-- @tparam[opt] boolean may_repeat it changes nothing, so it may run again when the connection breaks
-- @tparam[opt] boolean is_quick it changes nothing and takes no time, so it may be sent together with others like it
-- @treturn[1] table rows
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code as of atelier.pg, or "busy"
-- @treturn[2] ?table what `conn:last_error` gives
function Database:as_user(user, name, sql, params, may_repeat, is_quick)
  local deadline = httpd.now() + self.timeout
  if is_quick and not self.is_plain then
    local rows, message, code, fields = self.lanes:run(deadline, user, name, sql, params)
    if rows or code and not (may_repeat and LOST[code]) then
      return rows, message, code, fields
    end
  end
  return perform(self, deadline, may_repeat, "user", user, name, sql, params)
end

--- Runs a statement with the service's rights; as `as_user`, without claims.
function Database:service(name, sql, params, may_repeat)
  return perform(self, httpd.now() + self.timeout, may_repeat, "service", nil, name, sql, params)
end

--- A connection of its own, for LISTEN, as of `pool:listener`.
function Database:listener()
  return self.pool:listener()
end

--- Connects, as of `pool:start`.
function Database:start()
  self.pool:start()
end

--- Whether a statement can be expected to run.
function Database:is_ready()
  return self.pool:is_ready()
end

--- How long ago a statement came back, as of `pool:silence`.
function Database:silence()
  return self.pool:silence()
end

--- Numbers for an operator, as of `pool:stats`.
function Database:stats()
  local stats = self.pool:stats()
  stats.waiting = stats.waiting + self.lanes.waiting
  return stats
end

--- Closes what is idle; the rest when it comes back.
function Database:close()
  self.pool:close()
end

--- A database; `start` connects.
-- @tparam table options `url`, `connections`, `timeout` of a statement in seconds, `name` for pg_stat_activity
-- @treturn table database
function M.new(options)
  local self = setmetatable({ timeout = options.timeout, pool = pool.new { url = options.url,
    connections = options.connections, timeout = options.timeout, name = options.name,
    prepare = { ate_as_user = AS_USER, ate_as_service = AS_SERVICE } } }, Database)
  -- Half of the connections, so that what is slow finds one.
  self.lanes = lanes.new(self.pool, { role = "ate_as_user", is_own = is_own,
    most = (options.connections + 1) // 2, alone = run_alone(self) })
  return self
end

return M
