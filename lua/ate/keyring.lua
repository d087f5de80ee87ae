--- The key ring: master keys (licence keys come from them) and signing keys, several of each, one current.
-- Owns the file: mode 0600, JSON, created and changed whole or not at all. Secrets live in `crypto.secret` objects
-- and never in messages, listings or metadata. Must not know what is sealed with them.
local crypto = require "atelier.crypto"
local fcntl = require "posix.fcntl"
local files = require "ate.files"
local header = require "ate.header"
local json = require "atelier.json"
local metadata = require "ate.metadata"
local stat = require "posix.sys.stat"
local stdio = require "posix.stdio"
local stdlib = require "posix.stdlib"

local M = {}

local VERSION = 1
local LONGEST = 1 << 20
local OTHERS = 63 -- mode bits of group and world: rwxrwx

local Ring = {}
Ring.__index = Ring
Ring.__name = "ate.keyring"

function Ring:__tostring() return ("key ring: %s: %d keys"):format(self.path, #self.keys) end

local function wrap(path, reason, code)
  return nil, ("key ring: %s: %s"):format(path, reason), code
end

-- ==== one key ====

-- The id names the key without telling it, and lets a damaged file be noticed.
local IDENTIFY = {
  master = function(secret) return crypto.hmac_sha256(secret, "atelier master id 1\0"):sub(1, 8) end,
  signing = function(_, signer) return header.signer_id(signer:public()) end,
}

local function new_key(kind, secret, created_at, current)
  local signer = kind == "signing" and crypto.signing_key(secret) or nil
  return {
    kind = kind, secret = secret, signer = signer, created_at = created_at, current = current,
    id = crypto.hex(IDENTIFY[kind](secret, signer)),
  }
end

local function generate(kind)
  return new_key(kind, assert(crypto.random_secret(32)), metadata.time(), true)
end

local function encode(keys)
  local list = {}
  for i, key in ipairs(keys) do
    list[i] = {
      kind = key.kind, id = key.id, created_at = key.created_at, current = key.current,
      secret = crypto.base64_encode(key.secret:reveal()),
      public = key.signer and crypto.base64_encode(key.signer:public()) or nil,
    }
  end
  return json.encode({ version = VERSION, keys = json.array(list) }, { indent = 2 }) .. "\n"
end

local function decode_key(item)
  if type(item) ~= "table" or not IDENTIFY[item.kind] then return nil, "a key of unknown kind" end
  local raw = type(item.secret) == "string" and crypto.base64_decode(item.secret)
  if not raw or #raw ~= 32 then return nil, "a secret that is not base64 of 32 bytes" end
  if type(item.current) ~= "boolean" or not metadata.is_time(item.created_at) then
    return nil, "a key without 'current' or 'created_at'"
  end
  local key = new_key(item.kind, crypto.secret(raw), item.created_at, item.current)
  if key.id ~= item.id then return nil, "a key that does not fit its id" end
  return key
end

local function decode(text)
  local value, reason = json.decode(text)
  if value == nil then return nil, reason end
  if type(value) ~= "table" or value.version ~= VERSION or not json.is_array(value.keys) then
    return nil, "not a key ring of version " .. VERSION
  end
  local keys, current, seen = {}, {}, {}
  for i, item in ipairs(value.keys) do
    keys[i], reason = decode_key(item)
    if not keys[i] then return nil, "has " .. reason end
    local key = keys[i]
    if seen[key.id] or key.current and current[key.kind] then return nil, "has a key twice, or two current ones" end
    seen[key.id], current[key.kind] = true, current[key.kind] or key.current
  end
  if not current.master or not current.signing then return nil, "has no current master or signing key" end
  return keys
end

-- ==== the file ====

local function read(file)
  local info = stat.fstat(stdio.fileno(file))
  if info.st_mode & OTHERS ~= 0 then
    return nil, ("mode %04o lets others read it; do: chmod 600 FILE"):format(info.st_mode & 511), "bad_mode"
  end
  local keys, reason = decode(file:read(LONGEST) or "")
  if not keys then return nil, reason, "bad_keyring" end
  return keys
end

local function write(path, keys, options)
  return files.write(path, function(file)
    local ok, message, number = file:write(encode(keys))
    if not ok then return files.failure(ok, message, number) end
    return true
  end, options)
end

local function ring(path, keys)
  return setmetatable({ path = path, keys = keys }, Ring)
end

--- Loads a key ring. One that its group or the world can read is refused.
-- @tparam string path
-- @treturn[1] ring
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_mode", "bad_keyring" or an errno symbol
function M.load(path)
  local file <close>, reason, code = files.open_read(path)
  if not file then return wrap(path, reason, code == "irregular" and "bad_keyring" or code) end
  local keys
  keys, reason, code = read(file)
  if not keys then return wrap(path, reason:gsub("FILE$", function() return path end), code) end
  return ring(path, keys)
end

--- Creates a key ring with one master and one signing key. Never replaces one.
-- @tparam string path
-- @treturn[1] ring
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "EEXIST" or another errno symbol
function M.create(path)
  local keys = { generate("master"), generate("signing") }
  local ok, reason, code = write(path, keys, { exclusive = true })
  if not ok then return wrap(path, reason, code) end
  return ring(path, keys)
end

--- Loads a key ring, and creates it first where there is none. Processes that do so at once get the same one.
-- @tparam string path
-- @treturn[1] ring
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code as of `load` and `create`
function M.ensure(path)
  local found, message, code = M.load(path)
  if found or code ~= "ENOENT" then return found, message, code end
  found, message, code = M.create(path)
  if found or code ~= "EEXIST" then return found, message, code end
  return M.load(path)
end

-- ==== rotation ====

-- Locks the file that the path names now: while we waited, another process may have put a new one in its place.
-- Closing any handle of the file in this process would drop the lock, so it is read through this one only.
local function open_locked(path)
  while true do
    local fd, message, number = fcntl.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC)
    if not fd then return files.failure(fd, message, number) end
    local file = stdio.fdopen(fd, "r+b")
    local ok
    ok, message, number = fcntl.fcntl(fd, fcntl.F_SETLKW, { l_type = fcntl.F_WRLCK, l_whence = 0, l_start = 0,
      l_len = 0 })
    local held, named = stat.fstat(fd), stat.stat(path)
    if ok and named and held.st_ino == named.st_ino and held.st_dev == named.st_dev then return file end
    file:close()
    if not ok then return files.failure(ok, message, number) end
    if not named then return nil, "was removed meanwhile", "ENOENT" end
  end
end

local function add_current(keys, kind)
  for _, key in ipairs(keys) do
    if key.kind == kind then key.current = false end
  end
  keys[#keys + 1] = generate(kind)
end

--- Adds new keys and makes them current. The old ones stay, for files and licences that need them.
-- Works on what the file holds now, so that rotations in two processes both last.
-- @tparam table which `{master=true, signing=true}`, at least one
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code as of `load`
function Ring:rotate(which)
  if type(which) ~= "table" or not (which.master or which.signing) then
    error("key ring: rotate needs 'master' or 'signing'", 2)
  end
  for name in pairs(which) do
    if not IDENTIFY[name] then error(("key ring: unknown option '%s'"):format(tostring(name)), 2) end
  end
  -- Through a link the ring itself is written anew, not the link: others may know it by its own name.
  local path = stdlib.realpath(self.path) or self.path
  local file <close>, reason, code = open_locked(path)
  if not file then return wrap(self.path, reason, code) end
  local keys
  keys, reason, code = read(file)
  if not keys then return wrap(self.path, reason, code) end
  for _, kind in ipairs { "master", "signing" } do
    if which[kind] then add_current(keys, kind) end
  end
  local ok
  ok, reason, code = write(path, keys)
  if not ok then return wrap(self.path, reason, code) end
  self.keys = keys
  return true
end

-- ==== use ====

local function find(self, kind, id)
  for _, key in ipairs(self.keys) do
    if key.kind == kind and (id == nil and key.current or key.id == id) then return key end
  end
  return wrap(self.path, ("no %s key '%s'"):format(kind, id), "unknown_key")
end

--- A master key.
-- @tparam[opt] string id default the current one
-- @treturn[1] secret
-- @treturn[1] string id
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "unknown_key"
function Ring:master(id)
  local key, message, code = find(self, "master", id)
  if not key then return nil, message, code end
  return key.secret, key.id
end

--- A signing key.
-- @tparam[opt] string id default the current one
-- @treturn[1] signing_key
-- @treturn[1] string id: the signer id of the container, in hex
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "unknown_key"
function Ring:signer(id)
  local key, message, code = find(self, "signing", id)
  if not key then return nil, message, code end
  return key.signer, key.id
end

--- The public keys of all signing keys, retired ones too.
-- @treturn table 8 bytes of signer id → 32 bytes of public key
function Ring:trusted()
  local trusted = {}
  for _, key in ipairs(self.keys) do
    if key.signer then trusted[crypto.unhex(key.id)] = key.signer:public() end
  end
  return trusted
end

--- What may be shown of the keys: never a secret.
-- @treturn table list of `{kind, id, current, created_at, public}`; `public` is base64, of signing keys only
function Ring:list()
  local list = {}
  for i, key in ipairs(self.keys) do
    list[i] = {
      kind = key.kind, id = key.id, current = key.current, created_at = key.created_at,
      public = key.signer and crypto.base64_encode(key.signer:public()) or nil,
    }
  end
  return list
end

return M
