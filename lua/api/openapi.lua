--- The OpenAPI 3.1 document, made of the tables that route and validate.
-- @module api.openapi
local host = require "atelier.host"
local json = require "atelier.json"
local schema = require "api.schema"

local M = {}

local PROBLEM = { type = "object", description = "Why a request was refused.",
  required = json.array { "code", "message", "details", "hint" }, properties = {
  code = { type = "string", description = "A short stable word." },
  message = { type = "string", description = "A sentence for a developer." },
  details = { type = json.array { "string", "null" }, description = "The field that is wrong, or the reason." },
  hint = { type = json.array { "string", "null" }, description = "What to do." },
} }

local REFUSAL = { description = "Refused", content = { ["application/json"] = {
  schema = { ["$ref"] = "#/components/schemas/Problem" } } } }

local SECURITY = {
  user = json.array { { user = json.array {} } }, operator = json.array { { operator = json.array {} } },
  link = json.array { { user = json.array {} }, { link = json.array {} } }, none = json.array {},
}

local TEXTS = {
  [400] = "The request, a parameter or the body is malformed", [401] = "No token, or not a good one",
  [403] = "Not allowed", [429] = "Too many requests; Retry-After says when to come again",
  [413] = "The body is too large", [414] = "The path with its parameters is too long",
  [415] = "The body is not application/json", [431] = "The headers are too large",
  [500] = "A defect of the service: the log has it under the X-Request-Id of the answer",
  [503] = "The database is not available; Retry-After says when to come again", [504] = "The database took too long",
}

-- What each route may answer besides what its own table says; what the server refuses before it knows the route, too.
local COMMON = { 400, 414, 431, 500, 503 }
local OF_WHO_ASKS = { 401, 403, 429, 504 }
local OF_BODIES = { 413, 415 }

local function refusal(status)
  return { description = TEXTS[status], content = REFUSAL.content }
end

local function parameters(route)
  local list, names = json.array {}, {}
  for name in pairs(route.params or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local field = route.params[name]
    local document = schema.document(field)
    local description = document.description
    document.description = nil
    list[#list + 1] = { name = name, ["in"] = field.is_in_path and "path" or "query",
      required = field.is_in_path or field.required or false, description = description, schema = document }
  end
  return list
end

local function answer(entry)
  local content
  if entry.schema then
    content = { [entry.content or "application/json"] = { schema = schema.document(entry.schema, true) } }
  elseif entry.content then
    content = { [entry.content] = { schema = { type = "string" } } }
  end
  local headers
  for name, description in pairs(entry.headers or {}) do
    headers = headers or {}
    headers[name] = { description = description, schema = { type = "string" } }
  end
  return { description = entry.description, content = content, headers = headers }
end

local function responses(route)
  local all = {}
  for status, entry in pairs(route.responses or {}) do
    all[tostring(status)] = entry.schema == nil and not entry.content and status >= 400
      and { description = entry.description, content = REFUSAL.content } or answer(entry)
  end
  for _, list in ipairs { COMMON, route.auth ~= "none" and OF_WHO_ASKS or {}, route.body and OF_BODIES or {} } do
    for _, status in ipairs(list) do
      all[tostring(status)] = all[tostring(status)] or refusal(status)
    end
  end
  return all
end

local function operation(route)
  return { operationId = route.operation, summary = route.summary, description = route.description,
    parameters = parameters(route), responses = responses(route), security = SECURITY[route.auth],
    tags = json.array { route.tag or (route.auth == "operator" and "operators" or route.auth == "none" and "service"
      or "users") },
    requestBody = route.body and { required = schema.is_needed(route.body), content = {
      ["application/json"] = { schema = schema.document(route.body) } } } or nil }
end

-- A GET route answers HEAD, too: the same, without a body.
local function head(route)
  local it = operation(route)
  it.operationId, it.summary, it.description = route.operation .. "Head", "As GET, without the body", nil
  for _, response in pairs(it.responses) do
    response.content = nil
  end
  return it
end

--- Makes the document of all routes that have an `operation`.
-- @tparam {table,...} routes
-- @treturn table
function M.document(routes)
  local paths = {}
  for _, route in ipairs(routes) do
    if route.operation then
      paths[route.path] = paths[route.path] or {}
      paths[route.path][route.method:lower()] = operation(route)
      if route.method == "GET" then
        paths[route.path].head = head(route)
      end
    end
  end
  return {
    openapi = "3.1.0",
    info = { title = "Atelier", version = host.version, summary = "Sealed .ate files for licensed devices",
      description = "A path answers 405 to a method that it does not list; what is not HTTP as it should be, 408, 417 "
        .. "or 505.",
      license = { name = "see LICENSE" } },
    servers = json.array { { url = "/" } },
    paths = paths,
    components = {
      schemas = { Problem = PROBLEM },
      securitySchemes = {
        user = { type = "http", scheme = "bearer", bearerFormat = "JWT", description = "A user's token." },
        operator = { type = "http", scheme = "bearer", bearerFormat = "JWT",
          description = "A token of role service_role." },
        link = { type = "apiKey", ["in"] = "query", name = "link", description = "The link of a download_url." },
      },
    },
    tags = json.array { { name = "users" }, { name = "operators" }, { name = "service" } },
  }
end

--- The route that serves the document.
-- @tparam {table,...} routes all others
-- @treturn table route
function M.route(routes)
  local text
  return { method = "GET", path = "/api/ate/openapi.json", operation = "openapi", summary = "This document",
    auth = "none",
    responses = { [200] = { description = "The document", schema = { type = "object" } } },
    handler = function(call)
      text = text or assert(json.encode(M.document(routes)))
      call:respond { status = 200, body = text, headers = { ["Content-Type"] = "application/json",
        ["Cache-Control"] = "no-cache" } }
    end }
end

return M
