--- The key ring: there, private, and with every key that files were made with.
-- @module doctor.keys
local keyring = require "ate.keyring"

local M = {}

local REMEDIES = {
  ENOENT = "It is made on the first use, or by: atelier keys new. Other hosts need a copy of the same file.",
  EACCES = "Let the service's user, and nobody else, own the file.",
  bad_mode = "Run the chmod of the message; where others may have read it, rotate: atelier keys rotate.",
}

--- Examines; see `doctor`.
-- @tparam table patient
-- @tparam function tell
function M.run(patient, tell)
  local path = patient.config.keyring
  local ring, message, code = keyring.load(path)
  if not ring then
    return tell(code == "ENOENT" and "warn" or "fail", "key ring", message, REMEDIES[code]
      or "Restore the key ring from its backup: without its keys nobody's licence key can be derived.")
  end
  tell("ok", "key ring", path)
  if not patient.has_schema then
    return
  end
  local rows = patient.conn:query "select distinct master_key_id as id from ate_files where master_key_id is not null"
  local missing = {}
  for _, row in ipairs(rows or {}) do
    if not ring:master(row.id) then
      missing[#missing + 1] = row.id
    end
  end
  if missing[1] then
    tell("fail", "master keys", "files were made with keys that are not in the ring: " .. table.concat(missing, ", "),
      "Copy the ring from the host that made them, or restore it.")
  else
    tell("ok", "master keys", "every file's key is in the ring")
  end
end

return M
