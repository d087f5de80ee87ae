--- The stand-in for Supabase Storage in a process of its own, see supabase_storage.mjs.
-- @module spec.support.supabase
local http = require "atelier.http"
local json = require "atelier.json"

local M = {}
local Server = {}
Server.__index = Server

--- The service's key, of the legacy form.
M.KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"

--- Starts one; `url` is the project's.
function M.start()
  local pipe = assert(io.popen("exec env -u LD_PRELOAD node spec/support/supabase_storage.mjs " .. M.KEY))
  return setmetatable({ pipe = pipe, url = "http://127.0.0.1:" .. pipe:read "l" }, Server)
end

--- Orders something, such as a fault; gives {seen, buckets}.
function Server:control(path, value)
  local response = assert(http.request { method = "POST", url = self.url .. path,
    body = type(value) == "table" and json.encode(value) or tostring(value or "") })
  return json.decode(response.body)
end

--- Ends it.
function Server:stop()
  http.request { url = self.url .. "/end", timeout = 5 }
  self.pipe:close()
end

return M
