--- One request under way: what a handler is given, and how it answers.
-- Owns the checks of parameters and body, the headers that every answer has, and what becomes of an error. Must not
-- know any resource.
-- @module api.call
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local log = require "log"
local problem = require "api.problem"
local schema = require "api.schema"

local M = {}

local Call = {}
Call.__index = Call
M.class = Call

local JSON = "application/json"
local NONE = {}

-- ==== refusing =================================================================================

--- Ends the request with a problem; does not return.
-- @tparam integer status
-- @tparam string code a short stable word
-- @tparam string message without a full stop
-- @tparam[opt] table options `details`, `hint`, `headers`
function Call:refuse(status, code, message, options) -- luacheck: ignore 212/self
  error(problem.new(status, code, message, options), 0)
end

local function refuse_field(name, fault)
  -- The name may be the client's own: a long one would come back whole.
  error(problem.new(400, "bad_parameter", ("%s: %s"):format(name:sub(1, 64), fault), { details = name:sub(1, 64) }), 0)
end

-- ==== the database =============================================================================

local SAFE = { GET = true, HEAD = true }

--- Runs a statement as the user who asks: row level security decides what there is.
-- @tparam string name under which it is prepared; letters, digits, _
-- @tparam string sql always the same for a name
-- @tparam[opt] table params
-- @treturn table rows; a failure ends the request with its problem
function Call:query(name, sql, params)
  local rows, message, code, fields = self.app.db:as_user(self.user, name, sql, params, SAFE[self.request.method],
    self.route.is_quick)
  if not rows then
    error(problem.of_sql(message, code, fields), 0)
  end
  return rows
end

--- As `query`, with the service's rights: only where the design says so.
function Call:service(name, sql, params)
  local rows, message, code, fields = self.app.db:service(name, sql, params, SAFE[self.request.method])
  if not rows then
    error(problem.of_sql(message, code, fields), 0)
  end
  return rows
end

-- ==== parameters and body ======================================================================

-- Path and query in one table; the path's come first and cannot be given again.
function Call:read_params(in_path)
  local fields, query, request = self.route.params or NONE, self.request.query, self.request
  if request.repeated then
    refuse_field(next(request.repeated), "is there more than once")
  end
  for name in next, query do
    if not fields[name] or fields[name].is_in_path then
      refuse_field(name, "is unknown")
    end
  end
  local values = {}
  for name, field in next, fields do
    local text = query[name] or in_path and in_path[name]
    if text then
      local value, fault = schema.read(field, text)
      if fault then
        refuse_field(name, fault)
      end
      values[name] = value
    elseif field.required then
      refuse_field(name, "is missing")
    else
      values[name] = field.default
    end
  end
  self.params = values
end

function Call:read_body()
  local body, fields = self.request.body, self.route.body
  if not fields then
    if body then
      self:refuse(400, "bad_request", "this takes no body")
    end
    return
  end
  local kind = (self.request.headers["content-type"] or ""):lower():match "^%s*([^;%s]*)"
  if body and kind ~= JSON then
    self:refuse(415, "unsupported_media_type", "the body must be application/json")
  end
  local given, message = nil, nil
  if body then
    given, message = json.decode(body, { max_depth = 16 })
  elseif not schema.is_needed(fields) then
    given = {}
  end
  if given == nil then
    self:refuse(400, "bad_json", body and message:gsub("^decode: ", "body: ") or "a body is needed")
  elseif type(given) ~= "table" or json.is_array(given) then
    self:refuse(400, "bad_json", "the body must be an object")
  end
  local values, name, fault = schema.object(fields.properties, given)
  if not values then
    refuse_field(name, fault)
  end
  self.body = values
end

--- Writes a log line of this request.
-- @tparam string event
-- @tparam table fields ids and such, never secrets
function Call:note(event, fields)
  fields.request, fields.user = self.id, self.user and self.user.id
  log.info(event, fields)
end

-- ==== answering ================================================================================

-- What every answer has. Answers to users are theirs alone: nothing between may keep them.
function Call:base_headers(headers)
  local all = { ["X-Request-Id"] = self.id, ["X-Content-Type-Options"] = "nosniff", ["Cache-Control"] = "no-store" }
  if self.app.cors then
    self.app.cors(self.request.headers.origin, all)
  end
  if headers then
    for name, value in next, headers do
      all[name] = value
    end
  end
  return all
end

--- Answers by itself: files, streams, anything but JSON. As `request:respond`, with the headers that every answer
-- has.
-- @tparam table answer
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Call:respond(answer)
  answer.headers = self:base_headers(answer.headers)
  local ok, message, code = self.request:respond(answer)
  self.is_answered = ok -- a file that is not there may be answered otherwise
  return ok, message, code
end

-- The usual answer has nothing of its own but its id and its text. It is read before anybody else runs: one table for
-- all of them spares the collector three for each.
local usual = { status = 200, headers = { ["Content-Type"] = JSON, ["X-Content-Type-Options"] = "nosniff",
  ["Cache-Control"] = "no-store" } }

--- Answers with JSON that is there already.
-- @tparam integer status
-- @tparam string text
function Call:send_json(status, text)
  if self.app.cors then
    return self:send(status, text, { ["Content-Type"] = JSON })
  end
  usual.status, usual.body, usual.headers["X-Request-Id"] = status, text, self.id
  self.is_answered = true
  return self.request:respond(usual)
end

function Call:send(status, body, headers)
  local text = body
  if type(body) == "table" then
    text = assert(json.encode(body))
    if not headers then
      return self:send_json(status, text)
    end
    headers["Content-Type"] = headers["Content-Type"] or JSON
  end
  self.is_answered = true
  return self.request:respond { status = status, headers = self:base_headers(headers), body = text }
end

local function fault_headers(self, fault)
  local headers = { ["Content-Type"] = JSON }
  for name, value in next, fault.headers or NONE do
    headers[name] = value
  end
  return self:base_headers(headers)
end

-- An answer that is made before a body is read, see `accept` of atelier.httpd.
function Call:early(fault)
  return { status = fault.status, body = fault:body(), headers = fault_headers(self, fault) }
end

local function note(self, fault, trace)
  local level = fault.status >= 500 and (fault.status == 500 and "error" or "warn") or "debug"
  log[level]("request refused", { request = self.id, method = self.request.method, path = self.request.path,
    status = fault.status, code = fault.code, reason = trace or fault.log or fault.message })
end

--- Answers with what was raised.
-- @param raised a problem, or anything else, which is an error of ours
-- @treturn[1] boolean true
function Call:fail(raised)
  local fault, trace = raised, nil
  if not problem.is(raised) then
    fault, trace = problem.new(500, "internal", "the request could not be handled"), tostring(raised)
  end
  note(self, fault, trace)
  if self.is_answered then
    error("it failed after its answer had begun", 0) -- which cuts a stream
  end
  return self.request:respond { status = fault.status, headers = fault_headers(self, fault), body = fault:body() }
end

local BYTES = {}
for i = 0, 255 do
  BYTES[i] = ("%02x"):format(i)
end

--- Names for the requests of a process: sixteen hexadecimal digits, which process and a count.
-- @treturn function that gives the next one
function M.ids()
  local tag, start, count = crypto.hex(crypto.random(4)), nil, -1
  return function()
    count = count + 1
    if count & 255 == 0 then -- all but the last two digits are made once for so many
      start = ("%s%06x"):format(tag, count >> 8 & 0xffffff)
    end
    return start .. BYTES[count & 255]
  end
end

--- A call.
-- @tparam table app
-- @tparam userdata request of atelier.httpd
-- @treturn table call
function M.new(app, request)
  return setmetatable({ app = app, request = request, id = app.next_id(), config = app.config, route = nil, user = nil,
    params = nil, is_answered = nil }, Call)
end

return M
