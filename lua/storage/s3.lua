--- The store on S3, and on every server that speaks its protocol: Signature Version 4 through libcurl, objects in one
-- bucket, large ones in parts.
--
-- Each object carries its SHA-256 as metadata, and the server is told the hash of what it receives, so that bytes that
-- changed on the way are refused. A new key is asked for with If-None-Match; where a server does not know that, the
-- key is looked at first. Keys need no encoding: `storage.is_safe` lets nothing else through.
-- @module storage.s3
local answer = require "storage.answer"
local crypto = require "atelier.crypto"
local form = require "storage.s3.request"
local growth = require "storage.growth"
local parts = require "storage.s3.parts"
local remote = require "storage.remote"
local secret = require "storage.secret"
local verdict = require "storage.verdict"
local xml = require "storage.s3.xml"

local M = {}
local Driver = {}

local SINGLE = 64 << 20 -- bytes; larger objects go in parts of this size
local PAGE = 1000
local REMOVERS = 8 -- the protocol's own call to delete many is not the same everywhere: one by one, so many at once

Driver.piece_seconds = 300 -- for a MiB of an object: a store that trickles must hold nobody for an hour

-- ==== answers ==================================================================================

local CODES = {
  NoSuchKey = "not_found", NoSuchBucket = "no_bucket", NotImplemented = "not_implemented",
  PreconditionFailed = "exists", EntityTooLarge = "too_large", KeyTooLongError = "bad_key", InvalidKey = "bad_key",
  InvalidRange = "corrupt", AccessDenied = "denied", SignatureDoesNotMatch = "denied", InvalidAccessKeyId = "denied",
  ExpiredToken = "denied", InvalidToken = "denied", TokenRefreshRequired = "denied", RequestTimeTooSkewed = "denied",
  AuthorizationHeaderMalformed = "denied", PermanentRedirect = "denied", AccountProblem = "denied",
}
-- What a status without words tells. The protocol has such answers only to HEAD, and for a precondition.
local BARE = { [412] = "exists", [501] = "not_implemented" }
local BARE_HEAD = { [301] = "denied", [400] = "denied", [404] = "not_found", [412] = "exists" }
local HINTS = {
  RequestTimeTooSkewed = "; set this host's clock",
  SignatureDoesNotMatch = "; check the secret key and the region",
  InvalidAccessKeyId = "; check the access key",
  NoSuchBucket = "; make the bucket, or name another one",
  ExpiredToken = "; these temporary credentials are over: renew them in their files, or reload the configuration",
  PermanentRedirect = "; check s3_endpoint and s3_region",
}
local BARE_HINT = "; check the access key, the secret key, s3_region and this host's clock" -- which one, is not said

-- What an answer says is wrong. Also with status 200: completing an upload may fail after its head was sent.
function Driver.judge(response, method)
  local body = response.body or ""
  local fault = body:find("<Error", 1, true) and xml.read(body)
  fault = fault and fault.name == "Error" and fault
  if response.status < 300 and not fault then
    return nil
  end
  local word = fault and xml.text(fault, "Code")
  local bare = method == "HEAD" and BARE_HEAD or body == "" and BARE or {}
  local text = fault and xml.text(fault, "Message")
  local code = verdict.code(response.status, CODES[word] or bare[response.status])
  local hint = HINTS[word] or code == "denied" and body == "" and response.status >= 400 and BARE_HINT or ""
  local message = ("status %d%s%s%s%s"):format(response.status, word and ", " .. verdict.said(word) or "",
    text and ": " .. verdict.said(text) or "", hint, verdict.origin(response, fault))
  return message, code, answer.patience(response.headers)
end

-- ==== one object ===============================================================================

-- What the head of an answer says of an object.
local function described(headers, size)
  size = math.tointeger(tonumber(size))
  local sha256 = headers["x-amz-meta-sha256"]
  if not size or not sha256 and (headers["content-type"] or ""):find "^text/html" then
    return nil, "the answer is not the store's, or tells no size", "unavailable"
  end
  return { size = size, sha256 = sha256, id = headers["x-amz-meta-put"], etag = headers.etag }
end

-- By one request, whose answer has no words: "not_found" may be a missing bucket, or a proxy. "no_size": it is there.
local function glance(self, key)
  local response, message, code, seconds = self:send(form.request(self, "HEAD", key, {}))
  if not response then
    return nil, message, code, seconds
  end
  local size = response.headers["content-length"]
  if not size then
    return nil, "the answer tells no size", "no_size"
  end
  return described(response.headers, size)
end

--- As `glance`; what is missing, or has no size there, is asked for once more, in a way that the store answers in
-- words, and with the size.
function Driver.lookup(self, key)
  local found, message, code, seconds = glance(self, key)
  if code ~= "not_found" and code ~= "no_size" then
    return found, message, code, seconds
  end
  local response
  response, message, code, seconds = self:send(form.request(self, "GET", key, { headers = { range = "bytes=0-0" } }))
  if not response then
    return nil, message, code, seconds
  end
  local total = (response.headers["content-range"] or ""):match "/(%d+)$"
  return described(response.headers, total or response.headers["content-length"])
end

function Driver.fetch(self, key, from, to, etag)
  local response, message, code, seconds = self:send(form.request(self, "GET", key, {
    timeout = self.driver.piece_seconds,
    max_bytes = answer.MOST, headers = { range = ("bytes=%d-%d"):format(from, to), ["if-match"] = etag } }))
  if not response then
    return nil, message, code == "exists" and "corrupt" or code, seconds
  end
  return answer.piece(response, from, to)
end

-- Puts what `fields` has under a new key.
local function put_new(self, key, fields)
  if self.driver.no_condition then
    local found, message, code, seconds = glance(self, key)
    if found or code == "no_size" then
      return nil, "the key is taken", "exists"
    elseif code ~= "not_found" then
      return nil, message, code, seconds
    end
  else
    fields.headers["if-none-match"] = "*"
  end
  local response, message, code, seconds = self:send(form.request(self, "PUT", key, fields))
  if code == "not_implemented" and fields.headers["if-none-match"] then
    self.driver.no_condition = true
    fields.headers["if-none-match"] = nil
    if fields.file then
      fields.file:seek "set"
    end
    return put_new(self, key, fields)
  end
  return response and true, message, code, seconds
end

function Driver.upload(self, key, source, options)
  if type(source) == "table" then
    local body = table.concat(source)
    return put_new(self, key, { headers = form.metadata(options), body = body,
      sha256 = options.sha256 or crypto.hex(crypto.sha256(body)), timeout = form.LONG })
  elseif options.size > self.driver.part then
    return parts.upload(self, key, source, options)
  end
  local made, message, code = growth.await(options, source)
  if not made then
    return nil, message, code
  end
  local file <close>, problem = io.open(source, "rb")
  if not file then
    return nil, problem, "io"
  end
  return put_new(self, key, { headers = form.metadata(options), file = file, length = options.size, timeout = form.LONG,
    sha256 = options.sha256 or form.hash_of(file, options.size) })
end

-- ==== many objects =============================================================================

function Driver.remove(self, keys)
  local count = 0
  for _, key in ipairs(keys) do
    local found, message, code, seconds = Driver.lookup(self, key)
    if found then
      local response
      response, message, code, seconds = self:send(form.request(self, "DELETE", key, {}))
      count = count + (response and 1 or 0)
      found = response
    end
    if not found and code ~= "not_found" then
      return nil, message, code, seconds
    end
  end
  return count
end

-- Uploads in parts that nobody completed; named so that `discard` finds them.
local function unfinished(self, prefix)
  local response = self:send(form.request(self, "GET", nil, { query = { uploads = "", prefix = prefix } }))
  local root = response and xml.read(response.body or "")
  local names = {}
  for _, upload in ipairs(root and xml.all(root, "Upload") or {}) do
    names[#names + 1] = ("%d %s %s"):format(answer.age(xml.text(upload, "Initiated"), response.headers),
      xml.text(upload, "UploadId"), xml.text(upload, "Key"))
  end
  return names
end

-- Asks for a list. Other people's keys may have characters that XML cannot: then it is asked for with encoded ones.
local function ask_page(self, query)
  query["encoding-type"] = self.driver.encodes and "url" or nil
  local response, message, code, seconds = self:send(form.request(self, "GET", nil, { query = query }))
  if not response then
    return nil, message, code, seconds
  end
  local root = xml.read(response.body or "")
  if root and root.name == "ListBucketResult" then
    return root, response
  elseif not root and not self.driver.encodes then
    self.driver.encodes = true
    return ask_page(self, query)
  end
  return nil, "the list cannot be read", "unavailable"
end

local function decoded(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

local function entries_of(root, response)
  local entries, is_encoded = {}, xml.text(root, "EncodingType") == "url"
  for i, item in ipairs(xml.all(root, "Contents")) do
    local key = xml.text(item, "Key")
    if not key then
      return nil
    end
    entries[i] = { key = is_encoded and decoded(key) or key,
      size = math.tointeger(tonumber(xml.text(item, "Size"))) or 0,
      age = answer.age(xml.text(item, "LastModified"), response.headers) }
  end
  return entries
end

function Driver.page(self, prefix, after)
  local query = { ["list-type"] = 2, ["max-keys"] = PAGE, prefix = prefix, ["start-after"] = after }
  local entries, token
  repeat -- an empty page need not be the last
    local root, response, code, seconds = ask_page(self, query)
    if not root then
      return nil, response, code, seconds
    end
    local former = token
    entries, token = entries_of(root, response), xml.text(root, "NextContinuationToken")
    if not entries or token and token == former then
      return nil, "the list cannot be read", "unavailable"
    end
    query["start-after"], query["continuation-token"] = nil, token
  until entries[1] or not token
  return entries, after and {} or unfinished(self, prefix)
end

function Driver.discard(self, names, age)
  local count = 0
  for _, name in ipairs(names) do
    local old, id, key = name:match "^(%-?%d+) (%S+) (%S+)$"
    if old and tonumber(old) >= age and parts.abort(self, key, id) then
      count = count + 1
    end
  end
  return count
end

-- ==== opening ==================================================================================

--- Opens the store.
-- @tparam table config `s3_endpoint`, `s3_region`, `s3_bucket`, `s3_style` "path" or "host", `s3_access_key`,
--   `s3_secret_key`, `s3_session_token`, `s3_part_bytes`, `s3_ca_file`
-- @treturn[1] table store
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "config"
function M.open(config)
  for _, name in ipairs { "s3_bucket", "s3_access_key", "s3_secret_key" } do
    if not config[name] then
      return nil, ("storage: s3: %s is not set"):format(name), "config"
    end
  end
  local region = config.s3_region
  local endpoint = (config.s3_endpoint or ("https://s3.%s.amazonaws.com"):format(region)):gsub("/+$", "")
  local scheme, host, base = endpoint:match "^(https?://)([^/?#@]+)([%w._~/-]*)$"
  if not scheme or base:find("//", 1, true) or not config.s3_bucket:find "^[a-z0-9][a-z0-9.-]+$" then
    return nil, "storage: s3: s3_endpoint must be https://HOST[/PATH] and s3_bucket a bucket's name", "config"
  end
  local host_style = config.s3_style == "host"
  local driver = setmetatable({
    kind = "s3",
    origin = scheme .. (host_style and config.s3_bucket .. "." or "") .. host,
    path = base .. (host_style and "/" or "/" .. config.s3_bucket .. "/"),
    part = config.s3_part_bytes or SINGLE,
    ca_file = config.s3_ca_file,
    region = region,
    secret = secret.new(config, { "s3_access_key", "s3_secret_key", "s3_session_token" }),
    removers = REMOVERS,
  }, { __index = Driver })
  return remote.new(driver, config)
end

return M
