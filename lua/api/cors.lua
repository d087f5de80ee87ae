--- Which other origins' pages may call the API: those that the configuration lists, exactly.
-- Tokens travel in a header, never in cookies, so credentials are not allowed.
-- What the server refuses before the API sees it is told of them too.
-- @module api.cors
local httpd = require "atelier.httpd"

local M = {}

-- OPTIONS * asks for all that any path takes; nothing else may have that target. (A resource, see api.)
M[1] = { method = "OPTIONS", path = "*", auth = "none", handler = function()
  return 204, nil, { Allow = "GET, HEAD, OPTIONS, POST" }
end }

local METHODS = "GET, HEAD, POST"
local ASKED = "Authorization, Content-Type, If-None-Match, If-Range, Last-Event-ID, Range"
local SHOWN = "Content-Disposition, Content-Range, ETag, Repr-Digest, Retry-After, X-Request-Id"

--- What sets the headers of an answer; nil when no origin is allowed.
-- @tparam {string,...} origins "*" for any
-- @treturn[1] function called with the request's Origin and the answer's headers; tells whether the origin is allowed
-- @treturn[2] nil
function M.new(origins)
  local allowed, list = {}, {}
  for i, origin in ipairs(origins) do
    list[i] = origin:gsub("/$", "")
    allowed[list[i]] = true
  end
  httpd.allow_origins(list)
  if #list == 0 then
    return nil
  end
  return function(origin, headers)
    headers["Vary"] = "Origin"
    if not origin or not (allowed[origin] or allowed["*"]) then
      return false
    end
    headers["Access-Control-Allow-Origin"] = allowed["*"] and "*" or origin
    headers["Access-Control-Expose-Headers"] = SHOWN
    return true
  end
end

--- The answer to OPTIONS: what a path takes, and to a page of another origin what it may do.
-- @tparam table call
-- @tparam string allow the path's methods
-- @treturn integer status
-- @treturn nil
-- @treturn table headers
function M.preflight(call, allow)
  local headers, request = { Allow = allow }, call.request.headers
  if call.app.cors and request["access-control-request-method"] and call.app.cors(request.origin, headers) then
    headers["Access-Control-Allow-Methods"] = METHODS
    headers["Access-Control-Allow-Headers"] = ASKED
    headers["Access-Control-Max-Age"] = "600"
  end
  return 204, nil, headers
end

return M
