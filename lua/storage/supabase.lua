--- The store on Supabase Storage, over its REST API, with the service's key.
--
-- Nearly every refusal comes with status 400 and the real one in the body: `code` decides, then `statusCode`, then the
-- status; whose fault it is, storage.verdict. Uploads carry Content-Length always, since the server applies no limit to
-- others, and never replace an object; their SHA-256 goes along as metadata. A bucket that is missing is made, private.
-- @module storage.supabase
local answer = require "storage.answer"
local crypto = require "atelier.crypto"
local growth = require "storage.growth"
local json = require "atelier.json"
local remote = require "storage.remote"
local secret = require "storage.secret"
local verdict = require "storage.verdict"

local M = {}
local Driver = {}

local PAGE = 1000
local STALLED = 60
local LONG = 3600 -- seconds, for a body of any size

Driver.piece_seconds = 300 -- for a MiB of an object: a store that trickles must hold nobody for an hour

-- ==== answers ==================================================================================

local CODES = {
  NoSuchKey = "not_found", KeyAlreadyExists = "exists", NoSuchBucket = "no_bucket", BucketAlreadyExists = "exists",
  EntityTooLarge = "too_large", InvalidKey = "bad_key", InvalidRange = "corrupt", AccessDenied = "denied",
  InvalidJWT = "denied", InvalidSignature = "denied", InvalidMimeType = "denied",
}
local FORMER = { ["404"] = "not_found", ["409"] = "exists" } -- by `statusCode`, of servers that send no `code`
local HINTS = {
  denied = "; check SUPABASE_SERVICE_ROLE_KEY, and supabase_header where a gateway wants the key elsewhere",
  too_large = "; raise the limit of the project or of its bucket",
  InvalidMimeType = "; let the bucket take application/octet-stream",
}

-- Whether what stands before the store, and has words of its own, does not take the key.
local function refuses_key(response, fault)
  local text = type(fault.message) == "string" and fault.message:lower() or ""
  return (response.status == 401 or response.status == 403)
    and (text:find "%f[%w]api ?key" or text:find "%f[%w]key%f[%W]" or text:find "%f[%w]jwt%f[%W]"
      or text:find "authentication credentials") ~= nil
end

-- The code of the server's own words; nil where they are none, or tell nothing of the object.
local function understood(fault)
  if fault.code ~= nil then
    local is_ours = fault.code == "InvalidRequest" and tostring(fault.message):find("authorization", 1, true)
    return is_ours and "denied" or CODES[fault.code]
  elseif fault.message == "Bucket not found" then
    return "no_bucket"
  end
  return FORMER[tostring(fault.statusCode)]
end

function Driver.judge(response)
  if response.status < 300 then
    return nil
  end
  local fault = json.decode(response.body or "")
  fault = type(fault) == "table" and fault or {}
  local is_own = fault.code ~= nil or fault.statusCode ~= nil
  local status = math.tointeger(tonumber(fault.statusCode)) or response.status
  local code = verdict.code(status, understood(fault))
  local word = type(fault.code) == "string" and fault.code or type(fault.error) == "string" and fault.error
  local hint = is_own and (HINTS[fault.code] or HINTS[code]) or ""
  if not is_own and refuses_key(response, fault) then
    is_own, hint = true, "; the key was refused" .. HINTS.denied
  end
  local message = ("status %d%s%s%s%s"):format(status, word and ", " .. verdict.said(word) or "",
    type(fault.message) == "string" and ": " .. verdict.said(fault.message) or "", hint,
    verdict.origin(response, is_own))
  return message, code, answer.patience(response.headers)
end

-- ==== requests =================================================================================

-- The key as it is now, in the headers that carry it.
local function key_headers(driver)
  local key, form = driver.secret:values().supabase_service_role_key, driver.form
  return { apikey = form ~= "bearer" and key or nil, authorization = form ~= "apikey" and "Bearer " .. key or nil }
end

local function request(self, method, path, fields)
  local headers = { ["accept-encoding"] = "identity" } -- without it any coding would do (RFC 9110, section 12.5.3)
  for _, list in ipairs { key_headers(self.driver), fields.headers or {} } do
    for name, value in pairs(list) do
      headers[name] = value
    end
  end
  local body = fields.body
  if fields.json then
    headers["content-type"], body = "application/json", assert(json.encode(fields.json))
  end
  return { method = method, url = self.driver.origin .. path, headers = headers, body = body, body_file = fields.file,
    body_length = fields.length, body_growing = fields.growing, timeout = fields.timeout or 60,
    stall_timeout = STALLED, max_bytes = fields.max_bytes }
end

local function object(self, key)
  return "/object/" .. self.driver.bucket .. "/" .. key
end

local function decoded(response)
  local value = json.decode(response.body or "")
  return type(value) == "table" and value or nil
end

-- ==== one object ===============================================================================

function Driver.lookup(self, key)
  local response, message, code, seconds = self:send(request(self, "GET",
    "/object/info/" .. self.driver.bucket .. "/" .. key, {}))
  if not response then
    return nil, message, code, seconds
  end
  local info = decoded(response)
  local size = info and math.tointeger(info.size)
  if not size then
    return nil, "the answer cannot be read", "unavailable"
  end
  local metadata = type(info.metadata) == "table" and info.metadata or {}
  return { size = size, sha256 = type(metadata.sha256) == "string" and metadata.sha256 or nil,
    id = metadata.put, etag = type(info.etag) == "string" and info.etag or nil }
end

function Driver.fetch(self, key, from, to)
  local response, message, code, seconds = self:send(request(self, "GET", object(self, key), {
    timeout = self.driver.piece_seconds,
    max_bytes = answer.MOST, headers = { range = ("bytes=%d-%d"):format(from, to) } }))
  if not response then
    return nil, message, code, seconds
  end
  return answer.piece(response, from, to)
end

local function make_bucket(self)
  local name = self.driver.bucket
  local response, message, code, seconds = self:send(request(self, "POST", "/bucket",
    { json = { id = name, name = name, public = false } }))
  if response or code == "exists" then
    return true
  end
  return nil, "make bucket " .. name .. ": " .. message, code, seconds
end

local function upload(self, key, fields, options)
  fields.headers = { ["content-type"] = "application/octet-stream", ["cache-control"] = "private, no-store",
    ["x-upsert"] = "false",
    ["x-metadata"] = crypto.base64_encode(assert(json.encode { sha256 = options.sha256, put = options.id })) }
  fields.timeout = LONG
  local response, message, code, seconds = self:send(request(self, "POST", object(self, key), fields))
  return response and true, message, code, seconds
end

-- Sends the object; once more where its bucket had to be made.
local function with_bucket(self, send)
  local ok, message, code, seconds = send()
  if code == "no_bucket" then
    ok, message, code, seconds = make_bucket(self)
    if ok then
      ok, message, code, seconds = send()
    end
  end
  return ok, message, code, seconds
end

function Driver.upload(self, key, source, options)
  local most = self.driver.most
  if most and options.size > most then
    return nil, ("%d bytes, and supabase_max_bytes allows %d"):format(options.size, most), "too_large"
  end
  if type(source) == "table" then
    local body = table.concat(source)
    return with_bucket(self, function()
      return upload(self, key, { body = body }, options)
    end)
  end
  local file <close>, problem = io.open(source, "rb")
  if not file then
    return nil, problem, "io"
  end
  local function send()
    file:seek("set")
    return upload(self, key, { file = file, length = options.size, growing = options.growing ~= nil }, options)
  end
  return with_bucket(self, function()
    if options.growing then
      return growth.send(options, source, send)
    end
    return send()
  end)
end

-- ==== many objects =============================================================================

function Driver.remove(self, keys)
  local count = 0
  for from = 1, #keys, PAGE do
    local some = json.array(table.move(keys, from, math.min(#keys, from + PAGE - 1), 1, {}))
    local response, message, code, seconds = self:send(request(self, "DELETE", "/object/" .. self.driver.bucket,
      { json = { prefixes = some } }))
    local gone = response and decoded(response)
    if not response then
      return nil, message, code, seconds
    elseif not gone then
      return nil, "the answer cannot be read", "unavailable"
    end
    count = count + #gone
  end
  return count
end

function Driver.page(self, prefix, after)
  -- A cursor is the key that came last, as the server writes it; what it gave itself is used where it is known.
  local cursor = after and (self.driver.cursors[after] or crypto.base64_encode("l:" .. after)) or nil
  local list, response, former
  repeat -- an empty page need not be the last
    local message, code, seconds
    response, message, code, seconds = self:send(request(self, "POST", "/object/list-v2/" .. self.driver.bucket,
      { json = { prefix = prefix, limit = PAGE, with_delimiter = false, cursor = cursor } }))
    if not response then
      if code == "no_bucket" then
        return {}, {}
      end
      return nil, message, code, seconds
    end
    list = decoded(response)
    if not list or type(list.objects) ~= "table" or former and former == list.nextCursor then
      return nil, "the list cannot be read", "unavailable"
    end
    cursor, former = list.nextCursor, list.nextCursor
  until list.objects[1] or list.hasNext ~= true or type(cursor) ~= "string"
  local entries = {}
  for i, item in ipairs(list.objects) do
    local metadata = type(item.metadata) == "table" and item.metadata or {}
    if type(item.name) ~= "string" then
      return nil, "the list cannot be read", "unavailable"
    end
    entries[i] = { key = item.name, size = math.tointeger(metadata.size) or 0,
      age = answer.age(item.created_at, response.headers) }
  end
  self.driver.cursors = {}
  if entries[1] and type(list.nextCursor) == "string" then
    self.driver.cursors[entries[#entries].key] = list.nextCursor
  end
  return entries, {}
end

-- An upload that is cut leaves nothing that could be listed.
function Driver.discard()
  return 0
end

--- The request that asks for what the server knows of the store's bucket.
-- @tparam table store
-- @treturn table for atelier.http
function M.about_bucket(store)
  return request(store, "GET", "/bucket/" .. store.driver.bucket, { timeout = 10 })
end

--- Opens the store.
-- @tparam table config `supabase_url`, `supabase_service_role_key`, `supabase_bucket`, `supabase_header`,
--   `supabase_max_bytes`
-- @treturn[1] table store
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "config"
function M.open(config)
  for _, name in ipairs { "supabase_url", "supabase_service_role_key" } do
    if not config[name] then
      return nil, ("storage: supabase: %s is not set"):format(name), "config"
    end
  end
  local url = config.supabase_url:gsub("/+$", "")
  if not url:find "^https?://[^/?#@]+[^?#@]*$" then
    return nil, "storage: supabase: supabase_url must be https://REF.supabase.co, or a server's address", "config"
  end
  return remote.new(setmetatable({ kind = "supabase", origin = url .. "/storage/v1", bucket = config.supabase_bucket,
    form = config.supabase_header, most = config.supabase_max_bytes, cursors = {},
    secret = secret.new(config, { "supabase_service_role_key" }) }, { __index = Driver }), config)
end

return M
