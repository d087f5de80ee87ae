--- Quick statements of many users, sent together: each behind its own role and claims, all in one piece.
--
-- A lane is a task that holds a connection as long as somebody waits, and sends what has gathered since it last looked.
-- Few lanes send larger pieces, which cost the database less. Whoever asked only waits; an error sends everybody back
-- to ask alone. Owns who waits and the lanes. Must not know any statement but the one that sets role and claims. Works
-- inside the loop of atelier.httpd only.
-- @module api.lanes
local httpd = require "atelier.httpd"

local M = {}

local TOGETHER = 16 -- more would make the first wait
local MOST_WAITING = 1000

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
    roles[n] = { prepared = role, { "" } }
    batches[n] = {}
    for i = 1, n do
      batches[n][2 * i - 1], batches[n][2 * i] = roles[i], roles[i]
    end
  end
  return roles, batches
end

local function send(lane, slot, n)
  local taken, batch, roles = lane.taken, lane.batches[n], lane.roles
  for i = 1, n do
    roles[i][1][1] = taken[i].claims
    batch[2 * i] = taken[i]
  end
  slot.is_clean = false
  -- It raises for parameters that are none; whose they are will be told so when he asks alone.
  local ok, results = pcall(slot.conn.pipeline, slot.conn, batch, lane.lanes.options)
  results = ok and results
  slot.is_clean = results and true
  lane.count = 0
  for i = 1, n do
    tell(taken[i], results and results[2 * i] or nil)
    batch[2 * i], taken[i] = roles[i], nil
  end
end

-- Nobody waits any more for what was taken.
local function dismiss(lane)
  local count = lane.count
  lane.count = 0
  for i = 1, count do
    tell(lane.taken[i])
    lane.taken[i] = nil
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
    tell(waiter, lane.lanes.alone(slot, waiter))
    taken[count], count = nil, count - 1
    lane.count = count
    if not slot.is_clean then
      dismiss(lane)
      return 0
    end
  end
  return kept
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
    n = n > 0 and prepare(lane, slot, n) or 0
    if n == 0 then
      return
    end
    send(lane, slot, n)
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
    lane = setmetatable({ lanes = self, taken = {} }, Lane)
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
    return httpd.park() -- the statement has a time of its own, and an end
  end
  return nil, "database: no connection became free in time", "busy"
end

--- Runs a statement as a user, in company.
-- @tparam string claims the verified token's, as JSON
-- @tparam string name under which it is prepared
-- @tparam string sql always the same for a name
-- @tparam[opt] table params
-- @tparam[opt] integer json as of `conn:pipeline`
-- @treturn[1] table rows
-- @return[2] nil
-- @treturn[2] ?string message
-- @treturn[2] ?string code; nil when it must be asked for alone
-- @treturn[2] ?table what `conn:last_error` gives
function Lanes:run(claims, name, sql, params, json)
  if self.waiting >= MOST_WAITING then
    return nil, "database: too many requests wait for a connection", "busy"
  end
  -- It is also what `conn:pipeline` is given. Eight fields by name: one more would double its table.
  local waiter <close> = setmetatable({ params, prepared = name, json = json, claims = claims, sql = sql, lanes = self,
    task = httpd.current(), state = WAITS, told = nil }, Waiter)
  self.waiting = self.waiting + 1
  self.tail = self.tail + 1
  self.queue[self.tail] = waiter
  if self.running < self.most and self.tail - self.head >= self.starting * TOGETHER then
    start(self)
  end
  return outcome(waiter, httpd.park(self.options.timeout))
end

--- Lanes over a pool.
-- @tparam table pool of api.pool
-- @tparam table options `role`: the name of the prepared statement that sets role and claims, `timeout` of statements
--   in seconds, `most` lanes at once, `alone`: a function that runs one waiter's statement on a slot
-- @treturn table lanes
function M.new(pool, options)
  return setmetatable({ pool = pool, role = options.role, alone = options.alone, most = options.most,
    options = { timeout = options.timeout, bare = true }, queue = {}, head = 1, tail = 0, waiting = 0, running = 0,
    starting = 0, spare = {} }, Lanes)
end

return M
