--- Refusals: what a client is told when it does not get what it asked for.
-- A problem is raised as an error and becomes the body {code, message, details, hint}: always all four, null where
-- there is nothing to say, and never how it looks inside. Owns the way from SQL errors to answers. Knows no route.
-- @module api.problem
local json = require "atelier.json"

local M = {}

local Problem = {}
Problem.__index = Problem

function Problem:__tostring()
  return ("problem: %d %s: %s"):format(self.status, self.code, self.message)
end

--- A problem, to be raised with `error(problem, 0)`.
-- @tparam integer status
-- @tparam string code a short stable word
-- @tparam string message a sentence without its full stop, for the client's developer
-- @tparam[opt] table options `details`, `hint` (strings), `headers`, `log`: what happened, for the log alone
-- @treturn table problem
function M.new(status, code, message, options)
  options = options or {}
  return setmetatable({ status = status, code = code, message = message, details = options.details,
    hint = options.hint, headers = options.headers, log = options.log }, Problem)
end

--- Whether a raised value is a problem.
function M.is(value)
  return getmetatable(value) == Problem
end

--- The body that tells a problem.
-- @treturn string JSON
function Problem:body()
  return (json.encode { code = self.code, message = self.message, details = self.details or json.null,
    hint = self.hint or json.null })
end

local LATER = { ["Retry-After"] = "1" }

-- Codes of our own functions, see sql/11; their texts are made to be shown.
local OURS = {
  AT001 = { 404, "unknown_device" }, AT002 = { 403, "not_entitled" }, AT003 = { 404, "unknown_template" },
  AT004 = { 400, "bad_priority" }, AT005 = { 409, "stale" }, AT006 = { 404, "unknown_job" },
  AT007 = { 409, "bad_state" }, AT008 = { 400, "bad_argument" }, AT009 = { 409, "version_taken" },
}

local UNAVAILABLE = { 503, "unavailable", "the database is not available", headers = LATER }
local TIMEOUT = { 504, "timeout", "the database took too long", headers = LATER }
local CONFLICT = { 409, "conflict", "it contradicts what is there already" }
local BUSY = { 503, "busy", "others are changing the same; try again", headers = LATER }
local BAD_VALUE = { 400, "bad_value", "the database refused a value" }

-- Others by their whole code or its class, the first two characters. Their texts may tell about the inside: not
-- shown.
local FOREIGN = {
  connection = UNAVAILABLE, closed = UNAVAILABLE, conninfo = UNAVAILABLE, timeout = TIMEOUT, ["57014"] = TIMEOUT,
  busy = { 503, "busy", "too many requests wait for the database", headers = LATER },
  ["08"] = UNAVAILABLE, ["53"] = UNAVAILABLE, ["57"] = UNAVAILABLE,
  ["25006"] = { 503, "read_only", "the database takes no changes at the moment", headers = LATER },
  ["42501"] = { 403, "forbidden", "the database does not permit it" },
  ["40"] = BUSY, ["55"] = BUSY, ["23503"] = CONFLICT, ["23505"] = CONFLICT,
  ["22"] = BAD_VALUE, ["23"] = BAD_VALUE,
}

--- The problem that a database error is to the client.
-- @tparam string message
-- @tparam string code of atelier.pg: an SQLSTATE, "timeout", "connection", …; or "busy", of the pool
-- @tparam[opt] table fields `detail` and `hint`, as `conn:last_error` gives them
-- @treturn table problem
function M.of_sql(message, code, fields)
  local ours = OURS[code]
  if ours then
    fields = fields or {}
    local text = message:gsub("^%a+: ", ""):gsub("^[%w_]+: ", "") -- the operation's name, then the function's
    return M.new(ours[1], ours[2], text, { details = fields.detail, hint = fields.hint })
  end
  local known = FOREIGN[code] or FOREIGN[tostring(code):sub(1, 2)]
  if known then
    return M.new(known[1], known[2], known[3], { headers = known.headers, log = ("%s (%s)"):format(message, code) })
  end
  return M.new(500, "internal", "the request could not be handled", { log = ("%s (%s)"):format(message, code) })
end

return M
