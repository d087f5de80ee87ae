--- The statements of a front: each runs as the caller, or with the service's rights.
--
-- Role and claims are set in the same implicit transaction, sent in one piece, so that nothing of one request is left
-- for the next. Owns what is prepared on which connection, and what is repeated. Must not know any statement. Works
-- inside the loop of atelier.httpd only.
-- @module api.database
local log = require "log"
local pool = require "api.pool"

local M = {}

local Database = {}
Database.__index = Database

-- Sets role and claims; gives no row, since nobody reads what it would echo. The conditions are never true.
local AS_USER = [[select where set_config('role', 'authenticated', true) is null
  or set_config('request.jwt.claims', $1, true) is null]]
local AS_SERVICE = [[select where set_config('role', 'service_role', true) is null
  or set_config('request.jwt.claims', '{"role": "service_role"}', true) is null]]

-- ==== statements ===============================================================================

local KINDS = {
  user = { { prepared = "ate_as_user", {} }, { AS_USER, {} } },
  service = { { prepared = "ate_as_service", {} }, { AS_SERVICE, {} } },
}

-- What is sent for a statement: the role, the statement, and what prepares it where that is not done.
local function compose(slot, plain, kind, claims, name, sql, params)
  local role = KINDS[kind][plain and 2 or 1]
  role[plain and 2 or 1][1] = claims
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
local GIVE_UP = { ["25006"] = true, ["0A000"] = true }
local NOT_PREPARED = { ["26000"] = true, ["42P05"] = true }

local function run(slot, self, kind, claims, name, sql, params)
  local conn = slot.conn
  local batch = compose(slot, self.is_plain, kind, claims, name, sql, params)
  local count = #batch
  slot.is_clean = false
  local results, message, code, place = conn:pipeline(batch, self.options)
  if count == 3 and (results or (place or 0) > 2) then
    slot.prepared[name] = sql
  end
  if results then
    slot.is_clean = true
    return results[count]
  end
  local fields = conn:last_error()
  if NOT_PREPARED[code] and not self.is_plain then
    log.warn("the database keeps no prepared statements; is it behind a transaction pooler?", { code = code })
    self.is_plain = true
    return run(slot, self, kind, claims, name, sql, params)
  end
  slot.is_spent = GIVE_UP[code]
  return nil, message, code, fields
end

local function once(self, ...)
  local slot <close>, message, code = self.pool:take()
  if not slot then
    return nil, message, code
  end
  return run(slot, self, ...)
end

local LOST = { connection = true, ["57P01"] = true, ["57P02"] = true, ["57P03"] = true }

local function perform(self, may_repeat, ...)
  local rows, message, code, fields = once(self, ...)
  if not rows and may_repeat and LOST[code] and not self.pool.failure then
    return once(self, ...)
  end
  return rows, message, code, fields
end

-- ==== in company ===============================================================================

local COMPANY = 7 -- others whose statements go along; more would make the first wait

-- However it ends, nobody is left waiting.
local Company = { __close = function(list)
  for i = 1, #list do
    list[i]:outcome(nil)
  end
end }

-- Sends a statement and those of others that wait, each behind its own role and claims, in one piece.
local function run_together(slot, self, company, item)
  local batch, n = {}, 2
  batch[1] = { prepared = "ate_as_user", { item.claims } }
  batch[2] = item
  for i = 1, #company do
    local other = company[i].item
    batch[n + 1], batch[n + 2] = { prepared = "ate_as_user", { other.claims } }, other
    n = n + 2
  end
  slot.is_clean = false
  local results = slot.conn:pipeline(batch, self.options)
  if not results then
    return nil
  end
  slot.is_clean = true
  for i = #company, 1, -1 do
    local waiter = company[i]
    company[i] = nil
    waiter:outcome(results[2 * i + 2])
  end
  return results[2]
end

-- For statements that are quick and change nothing. Nil and no code when it must be done alone.
local function in_company(self, item, sql)
  local slot <close>, message, code, rows = self.pool:take(item)
  if not slot then
    return rows, message, code
  end
  local company <close> = setmetatable({}, Company)
  if self.is_plain or slot.prepared[item.prepared] ~= sql or self.pool:company(company, COMPANY) == 0 then
    return run(slot, self, "user", item.claims, item.prepared, sql, item[1])
  end
  return run_together(slot, self, company, item)
end

--- Runs a statement as a user.
-- @tparam string claims the verified token's, as JSON
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
function Database:as_user(claims, name, sql, params, may_repeat, is_quick)
  if is_quick then
    local rows, message, code, fields = in_company(self, { prepared = name, params, claims = claims }, sql)
    if rows or code and not (may_repeat and LOST[code]) then
      return rows, message, code, fields
    end
  end
  return perform(self, may_repeat, "user", claims, name, sql, params)
end

--- Runs a statement with the service's rights; as `as_user`, without claims.
function Database:service(name, sql, params, may_repeat)
  return perform(self, may_repeat, "service", nil, name, sql, params)
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

--- Numbers for an operator, as of `pool:stats`.
function Database:stats()
  return self.pool:stats()
end

--- Closes what is idle; the rest when it comes back.
function Database:close()
  self.pool:close()
end

--- A database; `start` connects.
-- @tparam table options `url`, `connections`, `timeout` of a statement in seconds, `name` for pg_stat_activity
-- @treturn table database
function M.new(options)
  return setmetatable({ options = { timeout = options.timeout }, pool = pool.new { url = options.url,
    connections = options.connections, timeout = options.timeout, name = options.name,
    prepare = { ate_as_user = AS_USER, ate_as_service = AS_SERVICE } } }, Database)
end

return M
