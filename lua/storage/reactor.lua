--- Many HTTP requests at once, as coroutines: one that asks or pauses yields, and goes on when it has its answer.
--
-- A task is a function that runs in a coroutine here and calls `ask` and `pause`. `spawn` begins it, `wait` drives all
-- tasks until one of them is done. Outside of the event loop that blocks in poll; inside of it, it waits with the
-- loop, and a reactor then belongs to one coroutine at a time. Knows no store.
-- @module storage.reactor
local clock = require "clock"
local http = require "atelier.http"
local httpd = require "atelier.httpd"
local time = require "posix.time"

local M = {}
local Reactor = {}
Reactor.__index = Reactor

local IDLE = 0.1 -- seconds, at most, between two looks at libcurl's own timers
local TOLD = 1   -- seconds between two calls of whoever must not be silent

--- A new reactor.
-- @tparam integer connections at most so many to one host
-- @treturn table reactor
function M.new(connections)
  return setmetatable({ multi = http.multi { connections = connections }, asking = {}, paused = {} }, Reactor)
end

--- Inside a task: makes a request and waits for its answer.
-- @tparam table request see `atelier.http`
-- @treturn[1] table response
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of atelier.http
function M.ask(request)
  return coroutine.yield("ask", request)
end

--- Inside a task: waits.
-- @tparam number seconds
function M.pause(seconds)
  coroutine.yield("pause", seconds)
end

--- Inside a task: runs several functions at once, each as a task of its own, and waits until all are done.
-- @tparam {function,...} steps
-- @treturn {table,...} their results, packed
function M.together(steps)
  local tasks, results = coroutine.yield("together", steps), {}
  for i, task in ipairs(tasks) do
    if task.raised then
      error(task.raised, 0)
    end
    results[i] = task.result
  end
  return results
end

local resume

-- One of the tasks that another waits for has ended.
local function end_one(self, leader)
  leader.awaited = leader.awaited - 1
  if leader.awaited == 0 then
    local helpers = leader.helpers
    leader.helpers = nil
    return resume(self, leader, helpers)
  end
end

-- The task goes on when all that it has begun are done.
local function begin_together(self, task, steps)
  local helpers = {}
  task.helpers, task.awaited = helpers, #steps + 1
  for i, step in ipairs(steps) do
    helpers[i] = { leader = task, thread = coroutine.create(function()
      helpers[i].result = table.pack(step())
    end) }
    resume(self, helpers[i])
  end
  end_one(self, task) -- itself: only now may it go on
end

-- Runs a task up to its next request or pause. What it raises is raised where it is waited for.
function resume(self, task, ...)
  local ok, what, subject = coroutine.resume(task.thread, ...)
  if not ok then
    task.raised = debug.traceback(task.thread, what)
  end
  if coroutine.status(task.thread) == "dead" then
    return task.leader and end_one(self, task.leader)
  elseif what == "pause" then
    self.paused[task] = clock.now() + subject
  elseif what == "together" then
    begin_together(self, task, subject)
  else
    local id, message, code = self.multi:add(subject)
    if id then
      self.asking[id] = task
    else
      return resume(self, task, nil, message, code)
    end
  end
end

--- Begins a task.
-- @tparam function f
-- @param ... its arguments
-- @treturn table task
function Reactor:spawn(f, ...)
  local task = {}
  task.thread = coroutine.create(function(...)
    task.result = table.pack(f(...))
  end)
  resume(self, task, ...)
  return task
end

local function settle(self, answers)
  for _, answer in ipairs(answers) do
    local task = self.asking[answer.id]
    self.asking[answer.id] = nil
    if answer.error then
      resume(self, task, nil, answer.error, answer.code)
    else
      resume(self, task, answer)
    end
  end
end

local function wake(self)
  local now, due, next_at = clock.now(), {}, nil
  for task, at in pairs(self.paused) do
    if at <= now then
      due[#due + 1] = task
    else
      next_at = math.min(next_at or at, at)
    end
  end
  for _, task in ipairs(due) do
    self.paused[task] = nil
    resume(self, task)
  end
  return next_at and next_at - now, #due > 0
end

local function sleep(seconds)
  if httpd.current() then
    httpd.sleep(seconds)
  else
    time.nanosleep { tv_sec = seconds // 1 | 0, tv_nsec = seconds % 1 * 1e9 // 1 | 0 }
  end
end

-- One wait in the event loop.
local function loop_turn(self, seconds)
  local fds = self.multi:fds()
  local limit = math.min(seconds, self.multi:timeout() or IDLE, IDLE)
  if #fds == 0 then
    httpd.sleep(limit)
    return self.multi:step()
  end
  local fd, events = httpd.wait(fds, nil, limit)
  if fd then
    return self.multi:step(fd, events)
  end
  return self.multi:step()
end

-- Carries everything on, for at most so long.
local function turn(self, seconds)
  local until_wake, woke = wake(self)
  if woke and (httpd.current() or not next(self.asking)) then
    return
  elseif woke then
    seconds = 0 -- a task that pauses again and again must not hold up what the others have asked for
  end
  seconds = math.min(seconds, until_wake or seconds)
  if not next(self.asking) then
    sleep(math.max(seconds, 0))
  elseif httpd.current() then
    settle(self, loop_turn(self, seconds))
  else
    settle(self, self.multi:run { timeout = math.max(seconds, 0) })
  end
end

--- Drives all tasks until one is done.
-- @tparam table task
-- @tparam[opt] number timeout in seconds
-- @tparam[opt] function on_wait called about once a second meanwhile
-- @treturn[1] boolean true when it is done; its values are in `task.result`
-- @treturn[2] boolean false when the time is over
function Reactor:wait(task, timeout, on_wait)
  local now = clock.now()
  local deadline, due = now + (timeout or math.huge), now + TOLD
  repeat
    if task.raised then
      error(task.raised, 0)
    elseif task.result then
      return true
    end
    turn(self, math.max(math.min(deadline - clock.now(), on_wait and TOLD or 3600), 0))
    now = clock.now()
    if on_wait and now >= due then
      on_wait()
      due = now + TOLD
    end
  until now > deadline
  return task.result ~= nil
end

--- Drives several tasks in the time that is left.
-- @tparam {table,...} tasks
-- @tparam number seconds for all
-- @tparam[opt] function on_wait as of `wait`
-- @treturn {table,...} the results of those that are done
-- @treturn boolean whether all are
function Reactor:wait_all(tasks, seconds, on_wait)
  local results, deadline, done = {}, clock.now() + seconds, true
  for i, task in ipairs(tasks) do
    done = self:wait(task, deadline - clock.now(), on_wait) and done
    results[i] = task.result
  end
  return results, done
end

--- Gives one task up, and what it asks for.
-- @tparam table task
function Reactor:drop(task)
  self.paused[task] = nil
  for _, helper in ipairs(task.helpers or {}) do
    self:drop(helper)
  end
  for id, asker in pairs(self.asking) do
    if asker == task then
      self.asking[id] = nil
      return self.multi:cancel(id)
    end
  end
end

--- Gives everything up.
function Reactor:close()
  self.multi:close()
end

return M
