--- What a failure's code means for a job: whether another attempt may do better, and how it is written down.
-- @module workflow.failure
local discreet = require "discreet"

local M = {}

-- Failures that another attempt may not have, besides those of a system call (errno symbols).
local TRANSIENT = {
  io = true, full = true, read_only = true, busy = true, timeout = true, connection = true, closed = true,
  memory = true, template_version = true, keyring = true, start = true, no_wall = true, runtime = true, killed = true,
  unavailable = true, denied = true, no_bucket = true, corrupt = true,
}

-- SQLSTATE classes of the same kind: connection, rollback, resources, object state, intervention, system.
local TRANSIENT_CLASS = { ["08"] = true, ["40"] = true, ["53"] = true, ["55"] = true, ["57"] = true, ["58"] = true }

local MAX_BYTES = 4000

-- A script of ours that stumbled: the customer reads this, the operator the log.
local INTERNAL = "a fault of the service; its log tells more under this job's queue_id"

--- Whether another attempt may do better. Every other failure is the input's, and final.
-- @tparam ?string code
-- @treturn boolean
function M.is_transient(code)
  code = code or ""
  return TRANSIENT[code] or code:find "^E%u" ~= nil or #code == 5 and TRANSIENT_CLASS[code:sub(1, 2)] or false
end

--- Whether a transaction was rolled back because of another one, and may simply be tried again.
-- @tparam ?string code
-- @treturn boolean
function M.is_conflict(code)
  return code == "40001" or code == "40P01"
end

--- A failure as the queue keeps it, and as its customer reads it: "code: message", without what is this host's own, and
-- text that the database takes whatever it was made of.
-- @tparam string message
-- @tparam ?string code
-- @treturn string
function M.text(message, code)
  local word = (code or "error"):lower()
  message = code == "internal" and INTERNAL or discreet.paths(message)
  local text = message:sub(1, #word + 1) == word .. ":" and message or ("%s: %s"):format(word, message)
  text = text:gsub("%z", "?")
  if not utf8.len(text) then
    text = text:gsub("[\128-\255]", "?")
  end
  if #text > MAX_BYTES then
    text = text:sub(1, utf8.offset(text, 0, MAX_BYTES) - 1) .. "…"
  end
  return text
end

return M
