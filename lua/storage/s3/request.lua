--- Requests to S3 in the form in which libcurl signs them rightly: the path and the query encoded and sorted as they
-- are signed, the body's hash always given.
-- @module storage.s3.request
local crypto = require "atelier.crypto"

local M = {}

--- Seconds for a body of any size.
M.LONG = 3600

local STALLED = 60 -- seconds without a byte moving
local PIECE = 64 << 10 -- bytes; for larger strings malloc asks the kernel each time
local REST = 1 << 20
local EMPTY = crypto.hex(crypto.sha256 "")

local function url_of(self, key, query)
  local driver = self.driver
  local path = key and (driver.path .. key) or driver.path:gsub("/$", "")
  return driver.origin .. (path == "" and "/" or path) .. (query and "?" .. query or "")
end

-- Parameters in the order and the form in which they are signed (RFC 3986).
local function query_of(parameters)
  local names, list = {}, {}
  for name in pairs(parameters) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    list[i] = name .. "=" .. tostring(parameters[name]):gsub("[^%w._~-]", function(c)
      return ("%%%02X"):format(c:byte())
    end)
  end
  return table.concat(list, "&")
end

-- The credentials as they are now.
local function credentials(driver)
  local values = driver.secret:values()
  return { access_key = values.s3_access_key, secret_key = values.s3_secret_key, token = values.s3_session_token,
    region = driver.region, service = "s3" }
end

--- A request.
-- @tparam table self store
-- @tparam string method
-- @tparam ?string key absent: of the bucket
-- @tparam table fields `query`, `headers`, `body` or `file` and `length`, `sha256` of that in hex, `timeout`
-- @treturn table for atelier.http
function M.request(self, method, key, fields)
  local headers = { ["x-amz-content-sha256"] = fields.sha256 or EMPTY }
  for name, value in pairs(fields.headers or {}) do
    headers[name] = value
  end
  return { method = method, url = url_of(self, key, fields.query and query_of(fields.query)), headers = headers,
    body = fields.body, body_file = fields.file, body_length = fields.length, sigv4 = credentials(self.driver),
    ca_file = self.driver.ca_file, timeout = fields.timeout or 60, stall_timeout = STALLED,
    max_bytes = fields.max_bytes }
end

--- What an object carries along.
-- @tparam table options `sha256` in hex, `id` of the put
-- @treturn table headers
function M.metadata(options)
  return { ["x-amz-meta-sha256"] = options.sha256, ["x-amz-meta-put"] = options.id,
    ["content-type"] = "application/octet-stream" }
end

--- The hash of the next bytes of a file, whose position stays.
-- @tparam file file
-- @tparam integer length
-- @tparam[opt] function rest called now and then: others may want the processor
-- @treturn string SHA-256 in hex
function M.hash_of(file, length, rest)
  local hash, left, at = crypto.hash(), length, file:seek()
  while left > 0 do
    local data = file:read(math.min(left, PIECE))
    if not data then
      break
    end
    hash:update(data)
    left = left - #data
    if rest and left % REST < PIECE then
      rest()
    end
  end
  file:seek("set", at)
  return crypto.hex(hash:digest())
end

return M
