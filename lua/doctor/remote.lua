--- What can be said of a store behind HTTP before anything is stored: its address, the kind of its key, whether it
-- answers at all, and whether its clock is this host's.
-- @module doctor.remote
local answer = require "storage.answer"
local crypto = require "atelier.crypto"
local http = require "atelier.http"
local json = require "atelier.json"
local supabase = require "storage.supabase"

local M = {}

local PATIENCE = 10 -- seconds for an answer to the least of questions
local TRIES = 2
local SKEW, REFUSED_SKEW = 60, 300 -- seconds; Swift refuses signatures from about there, AWS from 900

--- Looks at the address: a project's is that of its gateway, all services are under it.
-- @tparam string url SUPABASE_URL
-- @tparam function tell
-- @treturn boolean whether it could be the project's
function M.address(url, tell)
  local path = url:gsub("/+$", ""):match "^%a+://[^/]*(/.*)$"
  if not path then
    return true
  end
  local is_service = path:find "^/%a+/v%d+" ~= nil
  tell(is_service and "fail" or "warn", "address", ("SUPABASE_URL has the path %s"):format(path),
    "Leave the path out of SUPABASE_URL, as in https://REF.supabase.co.")
  return not is_service
end

-- What a key says that it is; nil: nothing.
local function role_of(key)
  if key:find "^sb_publishable_" then
    return "publishable"
  end
  local payload = key:match "^[%w_-]+%.([%w_-]+)%.[%w_-]+$"
  local bytes = payload and crypto.base64url_decode(payload)
  local claims = bytes and json.decode(bytes)
  return type(claims) == "table" and type(claims.role) == "string" and claims.role or nil
end

--- Looks at the key itself: there are others of the same form.
-- @tparam string key
-- @tparam function tell
function M.key(key, tell)
  local role = role_of(key)
  if role and role ~= "service_role" then
    tell("fail", "key", ("SUPABASE_SERVICE_ROLE_KEY holds a key of another kind: %s"):format(role:sub(1, 40)),
      "Take the secret (sb_secret_…) or the service_role key from the project's settings, API keys.")
  end
end

--- Compares the clocks: a store that signs, or is signed to, refuses what is of another time.
-- @tparam table headers of an answer just come
-- @tparam function tell
function M.clock(headers, tell)
  local apart = answer.ahead(headers)
  if not apart or math.abs(apart) <= SKEW then
    return
  end
  tell(math.abs(apart) > REFUSED_SKEW and "fail" or "warn", "clock",
    ("this host's is %.0f s %s the store's"):format(math.abs(apart), apart > 0 and "behind" or "ahead of"),
    "Set this host's clock: let it use NTP (timedatectl set-ntp true).")
end

--- Looks at a project's bucket: one that somebody made by hand may be open to all.
-- @tparam table store
-- @tparam function tell
function M.bucket(store, tell)
  local response = http.request(supabase.about_bucket(store))
  local info = response and response.status == 200 and json.decode(response.body)
  if type(info) ~= "table" then
    return
  end
  local name = store.driver.bucket
  local limit = math.tointeger(info.file_size_limit)
  local most = limit and (", takes files up to %.0f MB"):format(limit / 1e6) or ""
  if info.public == true then
    tell("warn", "bucket", name .. " is public: who knows the name of a file has it without any token",
      "Make it private: the project's dashboard, Storage, the bucket's settings.")
  else
    tell("ok", "bucket", name .. " is private" .. most)
  end
end

--- Asks the store for anything: one that is silent is found here, and not after the minutes that a put may take.
-- @tparam table driver `origin`, `ca_file`
-- @tparam function tell
-- @tparam[opt=10] number patience seconds for an answer
-- @treturn boolean whether anything answered
function M.reach(driver, tell, patience)
  local response, message
  for _ = 1, TRIES do
    response, message = http.request { method = "HEAD", url = driver.origin, ca_file = driver.ca_file,
      timeout = patience or PATIENCE }
    if response then
      M.clock(response.headers, tell)
      return true
    end
  end
  message = message:find(driver.origin, 1, true) and message or ("%s: %s"):format(driver.origin, message)
  tell("fail", "write", message,
    "Check the address: https or http, the port, and that this host may reach it.")
  return false
end

return M
