--- Quick statements of many users, sent together: each behind its own role and claims, all in one piece.
--
-- A lane is a task that holds a connection as long as somebody waits, and sends what has gathered since it last looked.
-- Few lanes send larger pieces, which cost the database less. Whoever asked only waits. An error
-- is told to whose statement it was, and the others are sent again: nothing of the piece has happened, and all of it
-- only reads. What fails in other ways sends everybody back to ask alone. Owns who waits and the lanes. Must not know
-- any statement but the one that sets role and claims. Works inside the loop of atelier.httpd only.
-- @module api.lanes
local httpd = require "atelier.httpd"

local M = {}

local TOGETHER = 16 -- more would make the first wait
local MOST_WAITING = 1000
local MOST_RESENT = 3 -- a piece; then what is left of it is asked for one by one

local Lanes, Waiter, Lane = {}, {}, {}
Lanes.__index = Lanes

-- ==== who waits ================================================================================

-- What a waiter's state can be.
local WAITS, SENT, TOLD, OVER = 1, 2, 3, 4

-- A request that ends while it waits is not asked for.
function Waiter:__close()
  self.state = OVER
  self.lanes.waiting = self.lanes.waiting - 1
end

-- Tells what became of a statement; with nothing at all it must be asked for alone. Who just ran out of time cannot be
-- woken, and looks for it.
local function tell(waiter, ...)
  if waiter.state ~= OVER then
    waiter.state = TOLD
    if not waiter.task:wake(...) then
      waiter.told = table.pack(...)
    end
  end
end

local function gather(self, list, most)
  local queue, head, tail, n = self.queue, self.head, self.tail, 0
  while n < most and head <= tail do
    local waiter = queue[head]
    queue[head] = nil
    head = head + 1
    if waiter.state == WAITS then
      n = n + 1
      list[n] = waiter
      waiter.state = SENT
    end
  end
  self.head = head
  return n
end

-- ==== a lane ===================================================================================

-- For each number of statements a list of what is sent: the role's statement before each.
local function new_batches(role)
  local roles, batches = {}, {}
  for n = 1, TOGETHER do
    roles[n] = { prepared = role, { "", "" } }
    batches[n] = {}
    for i = 1, n do
      batches[n][2 * i - 1], batches[n][2 * i] = roles[i], roles[i]
    end
  end
  return roles, batches
end

-- Nobody waits any more for what was taken. Who is told counts no more, so that a failure in between leaves nobody.
local function dismiss(lane)
  while lane.count > 0 do
    local waiter = lane.taken[lane.count]
    lane.taken[lane.count] = nil
    lane.count = lane.count - 1
    if waiter then
      tell(waiter)
    end
  end
end

-- Half of the time that is left, where one that hangs shall leave the others some.
local function time_for(taken, n)
  local latest = 0
  for i = 1, n do
    latest = math.max(latest, taken[i].deadline)
  end
  local left = math.max(latest - httpd.now(), 0.001)
  return n > 1 and left / 2 or left
end

-- Sends one piece. Returns its results; or nil, then as `conn:pipeline`, but whose statement failed.
local function attempt(lane, slot, n)
  local taken, batch, roles = lane.taken, lane.batches[n], lane.roles
  for i = 1, n do
    local role, waiter = roles[i][1], taken[i]
    role[1], role[2] = waiter.user.text, waiter.user.id
    batch[2 * i] = waiter
  end
  lane.options.timeout = time_for(taken, n)
  -- It raises for parameters that are none; whose they are will be told so when he asks alone.
  local ok, results, message, code, place = pcall(slot.conn.pipeline, slot.conn, batch, lane.options)
  for i = 1, n do
    batch[2 * i] = roles[i]
  end
  if ok and results then
    return results
  end
  place = ok and place or nil
  return nil, message, code, place and place % 2 == 0 and place <= 2 * n and place // 2 or nil
end

-- Tells whose statement failed, and takes him out. Returns whether the others can be sent again.
local function blame(lane, slot, message, code, place)
  local taken, n = lane.taken, lane.count
  local is_own = place and lane.lanes.is_own(code)
  if not place or not is_own and code ~= "timeout" then
    return false
  end
  local waiter, fields = taken[place], slot.conn:last_error()
  if is_own or n == 1 then
    tell(waiter, nil, message, code, fields)
  else
    tell(waiter) -- alone it may wait for what is left of its time
  end
  table.remove(taken, place)
  lane.count = n - 1
  return slot.conn:forget()
end

local function send(lane, slot)
  slot.is_clean = false
  for round = 0, MOST_RESENT do
    local n = lane.count
    local results, message, code, place = attempt(lane, slot, n)
    if results then
      slot:answered()
      for i = 1, n do
        tell(lane.taken[i], results[2 * i])
        lane.taken[i] = nil -- not before: who could not be told will be dismissed
      end
      lane.count = 0
      return
    end
    if not blame(lane, slot, message, code, place) or lane.count == 0 or round == MOST_RESENT then
      return dismiss(lane)
    end
  end
end

-- What the connection has not prepared yet is done alone, which does it.
local function prepare(lane, slot, n)
  local taken, kept, count = lane.taken, 0, n
  for i = 1, count do
    local waiter = taken[i]
    if slot.prepared[waiter.prepared] == waiter.sql then
      kept = kept + 1
      taken[i], taken[kept] = taken[kept], waiter
    end
  end
  while count > kept do
    local waiter = taken[count]
    local was_left = waiter.state == OVER
    if not was_left then
      tell(waiter, lane.lanes.alone(slot, waiter))
    end
    taken[count], count = nil, count - 1
    lane.count = count
    if not was_left and not slot.is_clean then
      return dismiss(lane)
    end
  end
end

local function serve(lane, slot)
  local lanes = lane.lanes
  repeat
    local n = gather(lanes, lane.taken, TOGETHER)
    lane.count = n
    if lane.is_starting then
      lane.is_starting = false
      lanes.starting = lanes.starting - 1
    end
    prepare(lane, slot, n)
    if lane.count == 0 then
      return
    end
    send(lane, slot)
  until lanes.head > lanes.tail or not slot.is_clean or lanes.pool.waiting > 0
end

local start

local function run(lane)
  local held <close> = lane -- luacheck: ignore 211/held
  local lanes = lane.lanes
  while lanes.head <= lanes.tail do
    local slot <close>, message, code = lanes.pool:take()
    if not slot then
      lane.count = gather(lanes, lane.taken, math.huge)
      for i = lane.count, 1, -1 do
        lane.count = i - 1
        tell(lane.taken[i], nil, message, code)
        lane.taken[i] = nil
      end
      return
    end
    serve(lane, slot)
  end
end

function start(self)
  local lane = table.remove(self.spare)
  if not lane then
    lane = setmetatable({ lanes = self, taken = {}, options = { bare = true } }, Lane)
    lane.roles, lane.batches = new_batches(self.role)
  end
  lane.count, lane.is_starting = 0, true
  self.running, self.starting = self.running + 1, self.starting + 1
  if not httpd.spawn(run, lane) then -- no memory: the next who asks tries again
    self.running, self.starting = self.running - 1, self.starting - 1
  end
end

-- However a lane ends, nobody is left waiting for it.
function Lane:__close()
  local lanes = self.lanes
  lanes.running = lanes.running - 1
  if self.is_starting then
    lanes.starting = lanes.starting - 1
  end
  dismiss(self)
  lanes.spare[#lanes.spare + 1] = self
  if lanes.head <= lanes.tail and not lanes.pool.is_closed then
    start(lanes)
  end
end

-- ==== use ======================================================================================

local function outcome(waiter, ...)
  if waiter.told then
    return table.unpack(waiter.told, 1, waiter.told.n)
  elseif waiter.state == TOLD then
    return ...
  elseif waiter.state == SENT then
    return nil, "database: not done in time", "timeout" -- and the lane will drop what comes
  end
  return nil, "database: no connection became free in time", "busy"
end

--- Runs a statement as a user, in company.
-- @tparam number deadline as of `httpd.now`
-- @tparam table user as of `database:as_user`
-- @tparam string name under which it is prepared
-- @tparam string sql always the same for a name
-- @tparam[opt] table params
-- @treturn[1] table rows
-- @return[2] nil
-- @treturn[2] ?string message
-- @treturn[2] ?string code; nil when it must be asked for alone
-- @treturn[2] ?table what `conn:last_error` gives
function Lanes:run(deadline, user, name, sql, params)
  if self.waiting >= MOST_WAITING then
    return nil, "database: too many requests wait for a connection", "busy"
  end
  -- It is also what `conn:pipeline` is given. Seven fields by name: of a ninth its table would double.
  local waiter <close> = setmetatable({ params, prepared = name, user = user, sql = sql, lanes = self,
    task = httpd.current(), state = WAITS, deadline = deadline }, Waiter)
  self.waiting = self.waiting + 1
  self.tail = self.tail + 1
  self.queue[self.tail] = waiter
  if self.running < self.most and self.tail - self.head >= self.starting * TOGETHER then
    start(self)
  end
  return outcome(waiter, httpd.park(math.max(deadline - httpd.now(), 0)))
end

--- Lanes over a pool.
-- @tparam table pool of api.pool
-- @tparam table options `role`: the name of the prepared statement that sets role and claims, `most` lanes at once,
--   `alone`: a function that runs one waiter's statement on a slot, `is_own`: one that tells by its code whether an
--   error is the statement's own, so that others can be sent on the same connection
-- @treturn table lanes
function M.new(pool, options)
  return setmetatable({ pool = pool, role = options.role, alone = options.alone, is_own = options.is_own,
    most = options.most, queue = {}, head = 1, tail = 0, waiting = 0, running = 0,
    starting = 0, spare = {} }, Lanes)
end

return M
