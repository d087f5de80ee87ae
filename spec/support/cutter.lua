--- The proxy that fails on order in a process of its own, see cutter.mjs.
-- @module spec.support.cutter
local http = require "atelier.http"
local json = require "atelier.json"

local M = {}
local Cutter = {}
Cutter.__index = Cutter

--- Starts one before a server on loopback; `url` is what to reach it by.
-- @tparam string url as in http://127.0.0.1:PORT
function M.start(url)
  local pipe = assert(io.popen("exec env -u LD_PRELOAD node spec/support/cutter.mjs " .. url:match "//(.*)$"))
  return setmetatable({ pipe = pipe, url = "http://127.0.0.1:" .. pipe:read "l" }, Cutter)
end

local function order(self, path, body)
  local response = assert(http.request { method = "POST", url = self.url .. path, body = body or "" })
  return assert(json.decode(response.body))
end

--- Sets the rules; none: carries everything as it is.
-- @tparam[opt] {table,...} rules
function Cutter:rules(rules)
  order(self, "/_rules", json.encode(json.array(rules or {})))
end

--- The request lines since the last call, and `waiting`: how many answers wait at a gate.
function Cutter:seen()
  return order(self, "/_seen")
end

--- How many answers wait at a gate.
function Cutter:waiting()
  return order(self, "/_look").waiting
end

--- Lets the waiting answers go.
function Cutter:open()
  order(self, "/_open")
end

--- Ends it.
function Cutter:stop()
  http.request { method = "POST", url = self.url .. "/_end", timeout = 5 }
  self.pipe:close()
end

return M
