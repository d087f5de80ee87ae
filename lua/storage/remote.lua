--- What all stores behind HTTP have in common: puts in flight, confirmation, reading in pieces.
--
-- A driver is a table of functions that run as tasks of storage.reactor and call `self:send(request)`:
--   upload(self, key, source, options)  → true | nil, message, code
--   lookup(self, key)                   → {size, and where they are known sha256, id (of the put), etag} | nil, …
--   fetch(self, key, from, to, etag)    → bytes, etag, size | nil, …
--   remove(self, keys)                  → count | nil, …
--   page(self, prefix, after)           → entries, unfinished | nil, …
--   discard(self, names, age)           → count | nil, …
--   judge(response, method) → nil when it is good, else message, code, and seconds that the store asks to wait
-- and `secret`, `removers` (tasks that share a deletion). Puts are storage.delivery's, codes those of storage.verdict.
-- @module storage.remote
local clock = require "clock"
local delivery = require "storage.delivery"
local httpd = require "atelier.httpd"
local reactor = require "storage.reactor"
local reader = require "storage.reader"
local respite = require "storage.respite"
local stat = require "posix.sys.stat"
local storage = require "storage"
local tries = require "storage.tries"
local verdict = require "storage.verdict"

local M = {}
local Store = {}
Store.__index = Store

local CONNECTIONS = 192 -- as many as a worker has files under way: each spends its time waiting for an answer
local SPARE = 8 -- reactors that are kept for later calls in the event loop
local WAIT = 3600
local LONGEST_PATIENCE = 300 -- seconds that a store may ask for
local LONGEST_QUIET = 60 -- seconds until it is looked at again, whatever it asks for: perhaps it is back before
local SHORT_PATIENCE = 2 -- seconds of pauses while a client waits for the head of an answer

local function failure(self, operation, key, message, code, seconds)
  return nil, ("storage: %s: %s %s: %s"):format(self.kind, operation, key, message), code, seconds
end

local function refused(self, operation, key)
  return failure(self, operation, key, "the key is not safe", "bad_key")
end

-- ==== inside tasks =============================================================================

--- Sends a request and judges the answer; once.
-- @tparam table request see atelier.http
-- @treturn[1] table response
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @treturn[2] number|nil seconds to wait
function Store:send(request)
  local response, message, code = reactor.ask(request)
  if not response then
    return nil, message, code:find "^E%u" and code or "unavailable"
  end
  local seconds
  if response.status < 300 and verdict.is_page(response) then
    message, code = ("status %d%s"):format(response.status, verdict.origin(response, false)), "unavailable"
  else
    message, code, seconds = self.driver.judge(response, request.method)
  end
  if message then
    return nil, message, code, seconds
  end
  return response
end

--- Runs a step of a driver, with further tries; see storage.tries.
function Store:persist(step, check, patience)
  return tries.persist(step, { check = check, patience = patience, mark = function(fresh)
    return self.driver.secret:mark(fresh)
  end })
end

--- `send` with further tries, for what may be sent again.
-- @tparam function make gives the request, each time anew
function Store:insist(make)
  return self:persist(function()
    return self:send(make())
  end)
end

-- ==== the contract =============================================================================

-- Runs a step, or several at once, as tasks, and gives the results of each. In the event loop each call has a reactor
-- of its own, with its warm connections; elsewhere there is one.
local function perform(self, seconds, ...)
  local own = httpd.current() and (table.remove(self.spare) or reactor.new(4)) or self.reactor
  local tasks = {}
  for i, step in ipairs { ... } do
    tasks[i] = own:spawn(step, self)
  end
  local ok, results, done = pcall(own.wait_all, own, tasks, seconds, self.on_wait)
  if not ok or not done then -- one that raised must not leave the others behind
    for _, task in ipairs(tasks) do
      own:drop(task)
    end
  end
  if own ~= self.reactor and (not ok or not done or #self.spare >= SPARE) then
    own:close()
  elseif own ~= self.reactor then
    table.insert(self.spare, own)
  end
  if not ok then
    error(results, 0)
  elseif not done then
    return nil, ("storage: %s: no answer in %g s"):format(self.kind, seconds), "unavailable"
  end
  return results
end

-- The result of one step.
local function perform_one(self, seconds, step)
  local results, message, code = perform(self, seconds, step)
  results = results and results[1] or { nil, message, code, n = 3 }
  return table.unpack(results, 1, results.n)
end

--- Begins to store; see `storage`. `options.sha256` in hex lets the store check it, where it can.
function Store:put(key, source, options)
  if not storage.is_safe(key) then
    return refused(self, "put", key)
  end
  local size, sha256 = delivery.measure(source, options and options.sha256)
  if not size then
    return failure(self, "put", key, sha256, "io")
  end
  self.last = self.last + 1
  self.tickets[self.last] = self.reactor:spawn(function()
    local ok, message, code = delivery.put(self, key, source, { size = size, sha256 = sha256 })
    if not ok then
      return failure(self, "put", key, message, code)
    end
    return true
  end)
  return self.last
end

function Store:wait(ticket, timeout)
  local task = self.tickets[ticket]
  if not task then
    error(("storage: ticket %s is unknown, or was waited for"):format(ticket), 2)
  end
  if not self.reactor:wait(task, timeout or 300) then
    return nil, ("storage: %s: put: not done in time"):format(self.kind), "timeout"
  end
  self.tickets[ticket] = nil
  return table.unpack(task.result, 1, task.result.n)
end

--- As `wait`, without carrying anything on.
function Store:poll(ticket)
  local task = self.tickets[ticket]
  if task and not (task.result or task.raised) then
    return nil, "storage: not done yet", "timeout"
  end
  return self:wait(ticket, 0)
end

local function named(operation, key, f, patience)
  return function(self)
    local result, message, code, seconds = self:persist(function()
      return f(self)
    end, nil, patience)
    if result == nil then
      return failure(self, operation, key, message, code, seconds and math.min(seconds, LONGEST_PATIENCE))
    end
    return result, message, code
  end
end

local function perform_named(self, operation, key, f)
  return perform_one(self, WAIT, named(operation, key, f))
end

-- In the event loop a client waits: better that he be told when to come again, and at once if that is known.
local function perform_soon(self, operation, key, f)
  if not httpd.current() then
    return perform_named(self, operation, key, f)
  end
  return self.respite:guard(key, perform_one, self, WAIT, named(operation, key, f, SHORT_PATIENCE))
end

function Store:head(key)
  if not storage.is_safe(key) then
    return refused(self, "head", key)
  end
  return perform_soon(self, "head", key, function()
    return self.driver.lookup(self, key)
  end)
end

--- Whether the store answers: one look at a key, which need not be there. One that asks for patience has it, for a
-- minute at most; but for what was said of another object, in another answer, the store is not left alone.
-- @tparam string key
-- @tparam number seconds that it may take
-- @return as `head`
function Store:look(key, seconds)
  local left = (self.quiet_until or 0) - clock.now()
  if left > 0 then
    return failure(self, "head", key, ("the store asks for patience, %.0f s more"):format(left), "unavailable")
  end
  return perform_one(self, seconds, function()
    local found, message, code, patience = self.driver.lookup(self, key)
    if not found then
      self.quiet_until = patience and clock.now() + math.min(math.max(patience, 0), LONGEST_QUIET)
      return failure(self, "head", key, message, code)
    end
    return found
  end)
end

function Store:get(key)
  local found, message, code, wait = self:head(key)
  if not found then
    return nil, message, code, wait
  end
  local perform_now = perform_soon
  return reader.new(function(from, to, etag)
    return perform_now(self, "get", key, function()
      local data, tag, size, seconds = self.driver.fetch(self, key, from, to, etag)
      if not data then
        return nil, tag, size, seconds
      end
      perform_now = perform_named -- an answer that has begun is rather late than cut
      return { data = data, etag = tag, size = size }
    end)
  end, found, key)
end

function Store:delete(keys)
  for _, key in ipairs(keys) do
    if not storage.is_safe(key) then
      return refused(self, "delete", key)
    end
  end
  local count, shares, steps = math.min(self.driver.removers or 1, #keys), {}, {}
  for i, key in ipairs(keys) do
    local n = (i - 1) % count + 1
    shares[n] = shares[n] or {}
    table.insert(shares[n], key)
  end
  for n, share in ipairs(shares) do
    steps[n] = named("delete", #share == 1 and share[1] or ("%d objects"):format(#share), function()
      return self.driver.remove(self, share)
    end)
  end
  local results, message, code = perform(self, WAIT, table.unpack(steps))
  local gone = 0
  for _, result in ipairs(results or {}) do
    if not result[1] then
      return nil, result[2], result[3]
    end
    gone = gone + result[1]
  end
  return results and gone, message, code
end

function Store:list(prefix, after)
  return perform_named(self, "list", prefix or "", function()
    local entries, unfinished, code, seconds = self.driver.page(self, prefix or "", after)
    if after and entries and entries[1] and entries[1].key <= after then -- whoever walks on would never arrive
      return nil, "the store begins its list anew instead of going on after " .. after, "unavailable"
    end
    return entries, unfinished, code, seconds
  end)
end

function Store:clear(names, age)
  return perform_named(self, "clear", ("%d uploads"):format(#names), function()
    return self.driver.discard(self, names, age)
  end)
end

--- Large files are prepared on this host's disk.
function Store:staging()
  stat.mkdir(self.staging_dir, 448) -- 0700
  return self.staging_dir
end

function Store:close()
  self.reactor:close()
  for _, spare in ipairs(self.spare) do
    spare:close()
  end
end

Store.__close = Store.close

--- A store.
-- @tparam table driver see above; `kind`, and what its functions need
-- @tparam table config `state_dir`
-- @treturn table store, see storage
function M.new(driver, config)
  return setmetatable({ kind = driver.kind, driver = driver, reactor = reactor.new(CONNECTIONS), spare = {},
    respite = respite.new(), tickets = {}, last = 0, staging_dir = config.state_dir .. "/staging" }, Store)
end

return M
