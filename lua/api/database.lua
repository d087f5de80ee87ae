--- The database connections of a front: few, shared by all requests, each used by one at a time.
--
-- Owns the connections, who waits for one, what is prepared on each, and coming back after a loss. A statement runs
-- as the caller: role and claims are set in the same implicit transaction, sent in one piece, so that nothing of one
-- request is left for the next. Must not know any statement. Works inside the loop of atelier.httpd only.
-- @module api.database
local httpd = require "atelier.httpd"
local log = require "log"
local pg = require "atelier.pg"

local M = {}

local MOST_WAITING = 1000
local CONNECT_TIMEOUT = 5
local FIRST_DELAY, LONGEST_DELAY = 0.1, 5

-- Sets role and claims; gives no row, since nobody reads what it would echo. The conditions are never true.
local AS_USER = [[select where set_config('role', 'authenticated', true) is null
  or set_config('request.jwt.claims', $1, true) is null]]
local AS_SERVICE = [[select where set_config('role', 'service_role', true) is null
  or set_config('request.jwt.claims', '{"role": "service_role"}', true) is null]]

local Pool, Slot, Waiter = {}, {}, {}
Pool.__index, Slot.__index, Waiter.__index = Pool, Slot, Waiter

-- ==== who waits ================================================================================

-- Hands a connection to who has waited longest, or lays it by.
local function give(pool, slot)
  while pool.head <= pool.tail do
    local waiter = pool.queue[pool.head]
    pool.queue[pool.head] = nil
    pool.head = pool.head + 1
    if not waiter.is_over then
      waiter.slot = slot
      if waiter.task:wake() then
        return
      end
      waiter.slot = nil
    end
  end
  pool.idle[#pool.idle + 1] = slot
end

-- A request that ends while it waits, or just when it is its turn, must not keep a connection.
function Waiter:__close()
  self.is_over = true
  self.task = nil
  self.pool.waiting = self.pool.waiting - 1
  if self.slot then
    give(self.pool, self.slot)
  end
end

local function dismiss_waiters(pool)
  for i = pool.head, pool.tail do
    local waiter = pool.queue[i]
    pool.queue[i] = nil
    if not waiter.is_over then
      waiter.task:wake()
    end
  end
  pool.head, pool.tail = 1, 0
end

local function wait_for_slot(pool)
  if pool.waiting >= MOST_WAITING then
    return nil, "database: too many requests wait for a connection", "busy"
  end
  local waiter <close> = setmetatable({ pool = pool, task = httpd.current() }, Waiter)
  pool.waiting = pool.waiting + 1
  pool.tail = pool.tail + 1
  pool.queue[pool.tail] = waiter
  httpd.park(pool.timeout)
  local slot = waiter.slot
  waiter.slot = nil
  if slot then
    return slot
  end
  return nil, pool.failure or "database: no connection became free in time", pool.failure and "connection" or "busy"
end

local function take(pool)
  local n = #pool.idle
  local slot = pool.idle[n]
  if slot then
    pool.idle[n] = nil
    return slot
  elseif pool.live == 0 and pool.failure then
    return nil, pool.failure, "connection"
  end
  return wait_for_slot(pool)
end

-- ==== connections ==============================================================================

local function drop(slot)
  if slot.conn then
    slot.conn:close()
    slot.conn = nil
    slot.pool.live = slot.pool.live - 1
  end
end

local function connect(slot)
  local pool = slot.pool
  local conn, message = pg.connect(pool.url, { timeout = CONNECT_TIMEOUT, application_name = pool.name, yield = true })
  if not conn then
    return nil, message
  end
  slot.prepared, slot.is_spent, slot.is_clean = {}, nil, true
  for name, sql in pairs { ate_as_user = AS_USER, ate_as_service = AS_SERVICE } do
    local ok, why, code = conn:prepare(name, sql, { timeout = CONNECT_TIMEOUT })
    if not ok and code == "42P05" then
      pool.is_plain = true
    elseif not ok then
      conn:close()
      return nil, why
    end
  end
  slot.conn = conn
  pool.live = pool.live + 1
  if pool.failure then
    pool.failure = nil
    log.info("the database is back", { process = pool.name })
  end
  return true
end

-- Connects for as long as it takes, then hands the connection out.
local function come_back(slot)
  local pool, delay = slot.pool, FIRST_DELAY
  while not pool.is_closed do
    local ok, message = connect(slot)
    if ok then
      return give(pool, slot)
    end
    if not pool.failure then
      log.warn("the database is not available", { process = pool.name, reason = message })
    end
    pool.failure = message
    if pool.live == 0 then
      dismiss_waiters(pool)
    end
    httpd.sleep(delay * (0.5 + math.random() / 2))
    delay = math.min(delay * 2, LONGEST_DELAY)
  end
end

-- Where one connection broke, others may have: they are tried before a request gets them.
local function try_again(slot)
  if slot.conn:query("select", nil, { timeout = 2 }) then
    return give(slot.pool, slot)
  end
  drop(slot)
  come_back(slot)
end

local function lose(slot)
  local pool, idle = slot.pool, slot.pool.idle
  drop(slot)
  pool.idle = {}
  for _, other in ipairs(idle) do
    httpd.spawn(try_again, other)
  end
  httpd.spawn(come_back, slot)
end

-- The end of a use, however it came.
function Slot:__close()
  if self.pool.is_closed then
    return drop(self)
  elseif self.is_clean or not self.is_spent and self.conn:status() == "idle" then
    return give(self.pool, self)
  end
  lose(self)
end

-- ==== statements ===============================================================================

local KINDS = {
  user = { { prepared = "ate_as_user", {} }, { AS_USER, {} } },
  service = { { prepared = "ate_as_service", {} }, { AS_SERVICE, {} } },
}

-- What is sent for a statement: the role, the statement, and what prepares it where that is not done.
local function compose(slot, kind, claims, name, sql, params)
  local plain = slot.pool.is_plain
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

local function run(slot, kind, claims, name, sql, params)
  local conn, pool = slot.conn, slot.pool
  local batch = compose(slot, kind, claims, name, sql, params)
  local count = #batch
  slot.is_clean = false
  local results, message, code, place = conn:pipeline(batch, pool.options)
  if count == 3 and (results or (place or 0) > 2) then
    slot.prepared[name] = sql
  end
  if results then
    slot.is_clean = true
    return results[count]
  end
  local fields = conn:last_error()
  if NOT_PREPARED[code] and not pool.is_plain then
    log.warn("the database keeps no prepared statements; is it behind a transaction pooler?", { code = code })
    pool.is_plain = true
    return run(slot, kind, claims, name, sql, params)
  end
  slot.is_spent = GIVE_UP[code]
  return nil, message, code, fields
end

local function once(pool, ...)
  local slot <close>, message, code = take(pool)
  if not slot then
    return nil, message, code
  end
  return run(slot, ...)
end

local function is_lost(code)
  return code == "connection" or code == "57P01" or code == "57P02" or code == "57P03"
end

local function perform(pool, may_repeat, ...)
  local rows, message, code, fields = once(pool, ...)
  if not rows and may_repeat and is_lost(code) and not pool.failure then
    return once(pool, ...)
  end
  return rows, message, code, fields
end

--- Runs a statement as a user.
-- @tparam string claims the verified token's, as JSON
-- @tparam string name under which it is prepared: letters, digits, _
-- @tparam string sql always the same for a name
-- @tparam[opt] table params
-- @tparam[opt] boolean may_repeat it changes nothing, so it may run again when the connection breaks
-- @treturn[1] table rows
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code as of atelier.pg, or "busy"
-- @treturn[2] ?table what `conn:last_error` gives
function Pool:as_user(claims, name, sql, params, may_repeat)
  return perform(self, may_repeat, "user", claims, name, sql, params)
end

--- Runs a statement with the service's rights; as `as_user`, without claims.
function Pool:service(name, sql, params, may_repeat)
  return perform(self, may_repeat, "service", nil, name, sql, params)
end

--- A connection of its own, for LISTEN. The caller closes it, and comes again when it is lost.
-- @treturn[1] conn of atelier.pg, that yields
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Pool:listener()
  return pg.connect(self.url, { timeout = CONNECT_TIMEOUT, application_name = self.name .. " listener", yield = true })
end

--- Connects; returns when the first connection is there, or could not be made.
function Pool:start()
  for i = 2, #self.slots do
    httpd.spawn(come_back, self.slots[i])
  end
  local ok, message = connect(self.slots[1])
  if ok then
    return give(self, self.slots[1])
  end
  self.failure = message
  log.warn("the database is not available", { process = self.name, reason = message })
  httpd.spawn(come_back, self.slots[1])
end

--- Whether a statement can be expected to run.
function Pool:is_ready()
  return self.live > 0
end

--- Numbers for an operator.
-- @treturn table `connections` that are there, `idle` of them, `waiting` requests
function Pool:stats()
  return { connections = self.live, idle = #self.idle, waiting = self.waiting }
end

--- Closes what is idle; the rest when it comes back.
function Pool:close()
  self.is_closed = true
  for _, slot in ipairs(self.idle) do
    drop(slot)
  end
  self.idle = {}
  dismiss_waiters(self)
end

--- A pool; `start` connects it.
-- @tparam table options `url`, `connections`, `timeout` of a statement in seconds, `name` for pg_stat_activity
-- @treturn table pool
function M.new(options)
  local self = setmetatable({ url = options.url, name = options.name or "atelier front", timeout = options.timeout,
    options = { timeout = options.timeout }, slots = {}, idle = {}, live = 0, queue = {}, head = 1, tail = 0,
    waiting = 0 }, Pool)
  for i = 1, options.connections do
    self.slots[i] = setmetatable({ pool = self, batch = {}, item = {}, prepared = {} }, Slot)
  end
  return self
end

return M
