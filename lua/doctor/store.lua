--- The store: writes, reads back, lists and deletes a small object.
-- @module doctor.store
local crypto = require "atelier.crypto"
local remote = require "doctor.remote"
local storage = require "storage"

local M = {}

local REMEDIES = {
  denied = "Check the keys; an S3 user needs to get, put, delete and list in its bucket.",
  no_bucket = "Make the bucket, or name another one.",
  unavailable = "Check the address, and that this host may reach it.",
  timeout = "Check the address, and that this host may reach it.",
  full = "Make room.",
  clock = "The store's hosts must have one time: let them use NTP.",
  read_only = "The folder must be writable for the service.",
}

local OF_ADDRESS = { unavailable = true, timeout = true }
local PATIENCE = 30 -- seconds, for a few bytes

local function read_all(store, key)
  local handle, message, code = store:get(key)
  if not handle then
    return nil, message, code
  end
  local text
  text, message, code = handle:read(4096)
  handle:close()
  return text or "", message, code
end

-- Each step rests on the one before.
local function steps(store, key, text)
  return {
    { "write", function()
      local ticket, message, code = store:put(key, { text }, { sha256 = crypto.hex(crypto.sha256(text)) })
      if not ticket then
        return nil, message, code
      end
      return store:wait(ticket, PATIENCE)
    end },
    { "read back", function()
      local got, message, code = read_all(store, key)
      if got and got ~= text then
        return nil, "what was read is not what was written", "corrupt"
      end
      return got, message, code
    end },
    { "list", function()
      local entries, message, code = store:list(key)
      if entries and not (entries[1] and entries[1].key == key) then
        return nil, "what was written is not in the list", "corrupt"
      elseif entries and math.abs(entries[1].age) > 300 then
        return nil, ("its clocks disagree with one another by %d s"):format(entries[1].age), "clock"
      end
      return entries, message, code
    end },
    { "delete", function()
      local count, message, code = store:delete { key }
      return count, message, code
    end },
  }
end

--- Looks at the way to the store: without TLS everybody on it reads what is sent.
-- @tparam table config
-- @tparam string kind of store
-- @tparam function tell
function M.way(config, kind, tell)
  local url = kind == "supabase" and config.supabase_url or kind == "s3" and config.s3_endpoint or ""
  local address = url:lower():match "^http://%[([^%]]*)%]" or url:lower():match "^http://([^/:]*)"
  if not address or address:match "^127%.[%d.]+$" or address == "localhost" or address == "::1" then
    return
  end
  tell("warn", "way", kind == "supabase" and url .. " is reached without TLS: the service key is sent in the clear"
    or url .. " is reached without TLS: requests and a session token can be read, and answers forged",
    "Use an https:// address.")
end

-- What is plainly wrong with a remote store before anything is stored there.
local function looks_right(patient, store, tell)
  if store.kind == "supabase" then
    if not remote.address(patient.config.supabase_url, tell) then
      return false
    end
    remote.key(store.driver.secret:values().supabase_service_role_key, tell)
  end
  return not store.driver or remote.reach(store.driver, tell, patient.patience)
end

--- Examines; see `doctor`.
-- @tparam table patient `patience`: seconds for the first answer of a remote store
-- @tparam function tell
function M.run(patient, tell)
  local doubt = storage.doubt(patient.config)
  if doubt then
    tell("warn", "choice", doubt, "Set the key, or storage = \"local\".")
  end
  local store, message = storage.open(patient.config)
  if not store then
    return tell("fail", "store", message, "See `atelier config` for the keys of each store.")
  end
  patient.store = store
  M.way(patient.config, store.kind, tell)
  if not looks_right(patient, store, tell) then
    return
  end
  local key = ("generated/atelier-doctor/probe_%s.ate"):format(crypto.hex(crypto.random(8)))
  for i, step in ipairs(steps(store, key, "atelier doctor " .. os.date "!%FT%TZ")) do
    local ok, reason, code = step[2]()
    if not ok then
      if i > 1 and step[1] ~= "delete" and not OF_ADDRESS[code] then
        store:delete { key } -- it was written
      end
      reason = OF_ADDRESS[code] and store.driver and ("%s (%s)"):format(reason, store.driver.origin) or reason
      return tell("fail", step[1], reason, REMEDIES[code] or "See the message.")
    end
    tell("ok", step[1], store.kind)
  end
  if store.kind == "supabase" then
    remote.bucket(store, tell)
  end
  patient.store_works = true
end

return M
