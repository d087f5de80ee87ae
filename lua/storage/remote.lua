--- What all stores behind HTTP have in common: puts in flight, tries, confirmation, reading in pieces.
--
-- A driver is a table of functions that run as tasks of storage.reactor and call `self:send(request)`:
--   upload(self, key, source, options)  → true | nil, message, code       lookup(self, key) → {size, sha256?} | nil, …
--   fetch(self, key, from, to, etag)    → bytes, etag, size | nil, …      remove(self, keys) → count | nil, …
--   page(self, prefix, after)           → entries, unfinished | nil, …    discard(self, names, age) → count | nil, …
--   judge(response) → nil when it is good, else message, code, and seconds that the store asks to wait
--
-- A put counts when the store has confirmed it and then says the right size of the object. An answer that was lost is
-- no failure: the object is looked at before it is sent again. Codes besides those of `storage`: "unavailable" (the
-- store is out of reach, or asks for patience: nothing is wrong with the object), "denied", "no_bucket", "too_large",
-- "corrupt".
-- @module storage.remote
local httpd = require "atelier.httpd"
local reactor = require "storage.reactor"
local reader = require "storage.reader"
local stat = require "posix.sys.stat"
local storage = require "storage"
local unistd = require "posix.unistd"

local M = {}
local Store = {}
Store.__index = Store

local TRIES = 4
local FIRST_DELAY, LONGEST_DELAY = 0.2, 10 -- seconds between tries; doubled, by chance up to that
local CONNECTIONS = 192 -- as many as a worker has files under way: each spends its time waiting for an answer
local SPARE = 8 -- reactors that are kept for later calls in the event loop
local WAIT = 3600

-- What the transport says when the store was not reached, or did not answer: another try may do better.
local TRANSPORT = { timeout = true, dns = true, connect = true, aborted = true, short_body = true, protocol = true }

local function failure(self, operation, key, message, code)
  return nil, ("storage: %s: %s %s: %s"):format(self.kind, operation, key, message), code
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
  request.timeout = math.min(request.timeout, self.limit or request.timeout)
  local response, message, code = reactor.ask(request)
  if not response then
    return nil, message, TRANSPORT[code] and "unavailable" or code
  end
  local seconds
  message, code, seconds = self.driver.judge(response)
  if message then
    return nil, message, code, seconds
  end
  return response
end

-- Runs a step again while the store is out of reach; `check`, if any, looks first whether it was done after all.
local function persist(step, check)
  local delay = FIRST_DELAY
  for try = 1, TRIES do
    local result, message, code, seconds = step()
    if result or code ~= "unavailable" then
      return result, message, code
    elseif try == TRIES then
      return nil, message, code
    end
    reactor.pause(math.max(math.min(seconds or 0, LONGEST_DELAY), delay * (0.5 + math.random() / 2)))
    delay = math.min(delay * 2, LONGEST_DELAY)
    local done = check and check()
    if done then
      return done
    end
  end
end

--- `send` with further tries, for what may be sent again.
-- @tparam table|function request or what makes it anew
function Store:insist(request)
  return persist(function()
    return self:send(type(request) == "function" and request() or request)
  end)
end

local function length_of(source)
  if type(source) == "string" then
    local info, message = stat.stat(source)
    return info and info.st_size, message
  end
  local size = 0
  for _, part in ipairs(source) do
    size = size + #part
  end
  return size
end

-- What is there under the key: true when it is this very object.
local function is_same(self, key, options)
  local found = self.driver.lookup(self, key)
  return found and found.size == options.size and options.sha256 ~= nil and found.sha256 == options.sha256
end

local function upload(self, key, source, options)
  local sent = false
  local ok, message, code = persist(function()
    local done, why, reason, seconds = self.driver.upload(self, key, source, options)
    if not done and reason == "exists" and sent and is_same(self, key, options) then
      return true -- an earlier try arrived, and its answer did not
    end
    sent = true
    return done, why, reason, seconds
  end, function()
    return is_same(self, key, options)
  end)
  if not ok then
    return failure(self, "put", key, message, code)
  end
  local found
  found, message, code = persist(function()
    return self.driver.lookup(self, key)
  end)
  if not found then
    return failure(self, "put", key, "the store confirmed it, and then: " .. message,
      code == "not_found" and "unavailable" or code)
  elseif found.size ~= options.size then
    return failure(self, "put", key, ("the store has %d bytes of %d"):format(found.size, options.size), "corrupt")
  end
  if type(source) == "string" then
    unistd.unlink(source)
  end
  return true
end

-- ==== the contract =============================================================================

-- In the event loop each call has a reactor of its own, with its warm connections; elsewhere there is one.
local function perform(self, f, ...)
  local own = httpd.current() and (table.remove(self.spare) or reactor.new(4)) or self.reactor
  local task = own:spawn(f, self, ...)
  local done = own:wait(task, WAIT)
  if own ~= self.reactor and (not done or #self.spare >= SPARE) then
    own:close()
  elseif own ~= self.reactor then
    table.insert(self.spare, own)
  end
  if not done then
    return nil, ("storage: %s: no answer in %d s"):format(self.kind, WAIT), "unavailable"
  end
  return table.unpack(task.result, 1, task.result.n)
end

--- Begins to store; see `storage`. `options.sha256` in hex lets the store check it, where it can.
function Store:put(key, source, options)
  if not storage.is_safe(key) then
    return refused(self, "put", key)
  end
  local size, message = length_of(source)
  if not size then
    return failure(self, "put", key, message, "io")
  end
  self.last = self.last + 1
  self.tickets[self.last] = self.reactor:spawn(upload, self, key, source,
    { size = size, sha256 = options and options.sha256 })
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

local function named(operation, key, f)
  return function(self)
    local result, message, code = persist(function()
      return f(self)
    end)
    if result == nil then
      return failure(self, operation, key, message, code)
    end
    return result, message, code
  end
end

function Store:head(key)
  if not storage.is_safe(key) then
    return refused(self, "head", key)
  end
  return perform(self, named("head", key, function()
    return self.driver.lookup(self, key)
  end))
end

--- Whether the store answers: one look at a key, which need not be there.
-- @tparam string key
-- @tparam number seconds that it may take
-- @return as `head`
function Store:look(key, seconds)
  return perform(self, function()
    self.limit = seconds
    local found, message, code = self.driver.lookup(self, key)
    self.limit = nil
    if not found then
      return failure(self, "head", key, message, code)
    end
    return found
  end)
end

function Store:get(key)
  local found, message, code = self:head(key)
  if not found then
    return nil, message, code
  end
  return reader.new(function(from, to, etag)
    return perform(self, named("get", key, function()
      local data, tag, size, seconds = self.driver.fetch(self, key, from, to, etag)
      if not data then
        return nil, tag, size, seconds
      end
      return { data = data, etag = tag, size = size }
    end))
  end, found, key)
end

function Store:delete(keys)
  for _, key in ipairs(keys) do
    if not storage.is_safe(key) then
      return refused(self, "delete", key)
    end
  end
  return perform(self, named("delete", ("%d objects"):format(#keys), function()
    return self.driver.remove(self, keys)
  end))
end

function Store:list(prefix, after)
  return perform(self, named("list", prefix or "", function()
    return self.driver.page(self, prefix or "", after)
  end))
end

function Store:clear(names, age)
  return perform(self, named("clear", ("%d uploads"):format(#names), function()
    return self.driver.discard(self, names, age)
  end))
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
    tickets = {}, last = 0, staging_dir = config.state_dir .. "/staging" }, Store)
end

return M
