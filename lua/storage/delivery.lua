--- A put to a remote store, until it is certain. Runs in a task of storage.reactor.
--
-- It counts when the store has confirmed it and then says the right size and hash of the object. An answer that was
-- lost is no failure, and what was sent twice neither: each put has an id of its own, which the store keeps with the
-- object, so that one that arrived is known again. (libcurl, too, sends again what a connection that died had taken.)
-- @module storage.delivery
local crypto = require "atelier.crypto"
local growth = require "storage.growth"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"
local verdict = require "storage.verdict"

local M = {}

local function hash_of(parts)
  local hash = crypto.hash()
  for _, part in ipairs(parts) do
    hash:update(part)
  end
  return hash:digest()
end

--- The size and the hash of what is to be stored.
-- @param source {strings…}, a path, or what grows (see storage.growth)
-- @tparam ?string sha256 in hex, where it is known
-- @treturn[1] integer bytes
-- @treturn[1] ?string SHA-256 in hex; nil while it is being written
-- @return[2] nil
-- @treturn[2] string message
function M.measure(source, sha256)
  local size = 0
  if growth.is_growing(source) then
    return source.size
  elseif type(source) == "string" then
    local info, message = stat.stat(source)
    if not info then
      return nil, message
    end
    size = info.st_size
  else
    for _, part in ipairs(source) do
      size = size + #part
    end
  end
  if not sha256 then
    local digest, message = (type(source) == "string" and crypto.sha256_file or hash_of)(source)
    if not digest then
      return nil, message
    end
    sha256 = crypto.hex(digest)
  end
  return size, sha256
end

--- Whether what a store says of an object is what was sent.
-- @tparam table found `size` and, where the store knows it, `sha256`
-- @tparam table options `size`, `sha256`
-- @treturn boolean
function M.is_same(found, options)
  return found.size == options.size and (found.sha256 == nil or found.sha256 == options.sha256)
end

local function lookup(store, key)
  return store:persist(function()
    return store.driver.lookup(store, key)
  end)
end

--- Whether this put made what is there: by its id; from a store that keeps none, by its size and hash.
-- @tparam table found
-- @tparam table options `id`, `size`, `sha256`
-- @tparam boolean sent whether it was sent before
-- @treturn boolean
function M.is_own(found, options, sent)
  if found.id ~= nil then
    return found.id == options.id
  end
  return sent and M.is_same(found, options)
end

local function deliver(store, key, source, options)
  local sent = false
  return store:persist(function()
    local ready, problem, fault = growth.look(options)
    if ready == nil then
      return nil, problem, fault
    end
    local done, why, reason, seconds = store.driver.upload(store, key, source, options)
    local again = sent
    sent = true
    if done or reason ~= "exists" then
      return done, why, reason, seconds
    end
    local found, message, code = lookup(store, key)
    if not found then
      return nil, message, code
    elseif M.is_own(found, options, again) then
      return true
    end
    return nil, why, reason
  end, function()
    local found = store.driver.lookup(store, key)
    return found and M.is_own(found, options, true)
  end)
end

--- Puts.
-- @tparam table store see storage.remote
-- @tparam string key
-- @param source {strings…}, a path, or what grows; that file is taken over when the store has it
-- @tparam table options `size`, `sha256`; `id` is added
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code see storage.verdict
function M.put(store, key, source, options)
  options.id = crypto.hex(crypto.random(8))
  if growth.is_growing(source) then
    options.growing, source = source, source.path
  end
  local ok, message, code = deliver(store, key, source, options)
  local made, problem, why = growth.look(options)
  if ok and made == false then
    made, problem, why = growth.await(options, source)
  end
  if made == nil then
    return nil, problem, why -- no fault of the store
  elseif not ok then
    return nil, message, verdict.of_put(code)
  end
  local found
  found, message, code = lookup(store, key)
  if not found then
    return nil, "the store confirmed it, and then: " .. message, verdict.of_put(code)
  elseif not M.is_same(found, options) then
    return nil, ("the store confirmed it, and has %d bytes of %d, SHA-256 %s"):format(found.size, options.size,
      found.sha256 or "unknown"), "unavailable"
  end
  if type(source) == "string" then
    unistd.unlink(source)
  end
  return true
end

return M
