--- The public keys of an issuer of tokens, fetched from its JWKS (RFC 7517) when they are needed.
--
-- Owns when to ask again: keys are fresh as long as the answer says (within bounds), and after that still good for a
-- while when the issuer cannot be reached. A key that is not there is asked for once in a while, by whoever comes
-- first; others wait for the same answer or are told at once. A fetch never stops the loop. Must not know tokens.
-- @module api.jwks
local crypto = require "atelier.crypto"
local http = require "atelier.http"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local log = require "log"

local M = {}

local Keys = {}
Keys.__index = Keys

local SHORTEST, USUAL, LONGEST = 60, 600, 3600 -- seconds that an answer is fresh
local STALE = 3600 -- seconds that keys outlive that when there is no new answer
local PAUSE = 30 -- seconds between two questions
local TIMEOUT = 5
local MOST_BYTES, MOST_KEYS = 65536, 100

-- ==== reading an answer ========================================================================

local ACCEPTED = { ES256 = true, RS256 = true }

local function is_for_signatures(jwk)
  if jwk.use ~= nil and jwk.use ~= "sig" then
    return false
  elseif jwk.key_ops == nil then
    return true
  end
  for _, operation in ipairs(json.is_array(jwk.key_ops) and jwk.key_ops or {}) do
    if operation == "verify" then
      return true
    end
  end
  return false
end

-- What tells two keys apart.
local function material(jwk)
  return table.concat({ tostring(jwk.kty), tostring(jwk.n), tostring(jwk.e), tostring(jwk.x), tostring(jwk.y) }, " ")
end

local function read_key(self, jwk)
  if type(jwk) ~= "table" or type(jwk.kid) ~= "string" or #jwk.kid > 256 or not is_for_signatures(jwk) then
    return nil
  end
  local known, text = self.keys[jwk.kid], material(jwk)
  if known and known.material == text then
    return known
  end
  local key = crypto.public_key(jwk)
  if key and ACCEPTED[key:algorithm()] then
    return { key = key, material = text }
  end
end

-- Keys that cannot be used here are passed over: an issuer may have others, too.
local function read_keys(self, body)
  local document = json.decode(body, { max_depth = 16 })
  local list = type(document) == "table" and not json.is_array(document) and document.keys
  if not json.is_array(list) or #list > MOST_KEYS then
    return nil, "the answer is no JWKS"
  end
  local keys = {}
  for _, jwk in ipairs(list) do
    local entry = read_key(self, jwk)
    if entry and keys[jwk.kid] then
      return nil, "two keys have the same id"
    elseif entry then
      keys[jwk.kid] = entry
    end
  end
  return keys
end

local function freshness(headers)
  local seconds = tonumber(((headers["cache-control"] or ""):lower():match "max%-age%s*=%s*(%d+)"))
  return math.max(SHORTEST, math.min(LONGEST, seconds or USUAL))
end

-- ==== asking ===================================================================================

-- Runs one request while the loop goes on.
local function fetch(url)
  local multi <close> = http.multi()
  local id, message = multi:add { url = url, timeout = TIMEOUT, connect_timeout = TIMEOUT, max_bytes = MOST_BYTES,
    headers = { Accept = "application/json" } }
  if not id then
    return nil, message
  end
  local done = multi:step()
  while not done[1] do
    local fd, events = httpd.wait(multi:fds(), nil, math.min(multi:timeout() or 0.1, 0.1))
    if fd then
      done = multi:step(fd, events)
    else
      done = multi:step()
    end
  end
  return not done[1].error and done[1] or nil, done[1].error
end

local function ask(self)
  local answer, message = fetch(self.url)
  if not answer then
    return nil, message
  elseif answer.status ~= 200 then
    return nil, "the answer has status " .. answer.status
  end
  local keys
  keys, message = read_keys(self, answer.body)
  if not keys then
    return nil, message
  end
  self.keys, self.fetched_at, self.fresh_for = keys, httpd.now(), freshness(answer.headers)
  return true
end

local function refresh(self)
  local sound, ok, message = pcall(ask, self)
  if not (sound and ok) then
    self.failures = self.failures + 1
    log.warn("the keys of tokens cannot be fetched", { url = self.url, reason = sound and message or ok })
  else
    self.failures = 0
  end
  -- Where there never was an answer, users wait for one.
  self.next_try = httpd.now() + (self.fetched_at and PAUSE or math.min(PAUSE, 2 ^ (self.failures - 1)))
  self.is_asking = false
  local waiting = self.waiting
  self.waiting = {}
  for _, task in ipairs(waiting) do
    task:wake()
  end
end

-- Starts to ask, unless that is under way or was tried a moment ago. Tells whether an answer is to come.
local function begin(self)
  if not self.is_asking and httpd.now() >= self.next_try and httpd.spawn(refresh, self) then
    self.is_asking = true
  end
  return self.is_asking
end

local function wait(self)
  self.waiting[#self.waiting + 1] = httpd.current()
  httpd.park(2 * TIMEOUT)
end

-- ==== use ======================================================================================

-- How old the answer is, after its time: below 0 it is fresh; nil when it is of no use any more.
local function overdue(self)
  local late = self.fetched_at and httpd.now() - self.fetched_at - self.fresh_for
  return late and late < STALE and late or nil
end

--- The key of an id; asks for it where it is not known, and then waits.
-- @tparam string kid
-- @treturn[1] public_key of atelier.crypto
-- @return[2] nil
-- @treturn[2] string "unknown", or "unavailable" when nobody can tell
function Keys:find(kid)
  local late = overdue(self)
  local entry = late and self.keys[kid]
  if entry then
    if late >= 0 then
      begin(self)
    end
    return entry.key
  end
  if begin(self) then
    wait(self)
    late = overdue(self)
    entry = late and self.keys[kid]
  end
  if entry then
    return entry.key
  end
  return nil, late and "unknown" or "unavailable"
end

--- Whether a key that `find` gave is still the issuer's under that id.
-- @tparam string kid
-- @tparam public_key key
-- @treturn boolean
function Keys:has(kid, key)
  local late = overdue(self)
  if late and late >= 0 then
    begin(self)
  end
  local entry = late and self.keys[kid]
  return entry ~= nil and entry and entry.key == key
end

local LOOPBACK = { ["localhost"] = true, ["[::1]"] = true }

local function is_allowed(url)
  local host = url:match "^http://(%[[%x:]+%])" or url:match "^http://([^/:]+)"
  return url:find "^https://[^/@]+" ~= nil and not url:find("@", 1, true)
    or host ~= nil and (LOOPBACK[host] or host:find "^127%.%d+%.%d+%.%d+$" ~= nil)
end

--- The keys at a URL. Nothing is fetched yet.
-- @tparam string url https, or http on this machine
-- @treturn[1] table keys
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "config"
function M.new(url)
  if not is_allowed(url) then
    return nil, ("jwks: %s: must be https, or http on this machine"):format(url:gsub("//[^/]*@", "//")), "config"
  end
  return setmetatable({ url = url, keys = {}, failures = 0, next_try = 0, waiting = {} }, Keys)
end

return M
