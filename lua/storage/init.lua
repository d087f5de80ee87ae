--- Where generated files live: one contract for every store.
--
-- A store has:
--
--   put(key, source, options)  begins to store; source is {strings…} or a path (then taken over). Never replaces a key.
--                              Options: sha256 in hex. → ticket | nil, message, code
--                              Stores behind HTTP also take a file that is still being written, see storage.growth.
--   wait(ticket, timeout)      → true once the store confirmed it | nil, message, code
--   poll(ticket)               → as wait, at once and without carrying puts on: "timeout" where it is not known yet
--   get(key)                   → an open file, or what is read like one (read, seek, close) and has `size`,
--                              the object's, in bytes | nil, message, code
--   head(key)                  → {size}, where it is known with sha256 and etag | nil, message, code; as get and read
--                              with the seconds, if any, that the store asks to wait
--   look(key, seconds)         → as head, but tried once, for so long at most: whether the store answers
--   delete(keys)               → number deleted | nil, message, code
--   list(prefix, after)        → {{key, size, age}, …} in key order, at most 1,000; age in seconds by the store's own
--                              clock; and names of what writers left unfinished on the way | nil, message, code
--   clear(names, age)          → number of those names removed that are at least so many seconds old
--   staging()                  → folder on the store's own disk where large files are prepared, or nil
--   close()
--   on_wait                    set by whoever must not be silent: a function, called about once a second while anything
--                              but `wait` waits for a store that takes its time
--
-- Several puts may be in flight; each is waited for once. A missing key has code "not_found", a taken one "exists", an
-- unsafe one "bad_key". "unavailable" is an outage: the store was not reached, or asks for patience.
-- @module storage
local unistd = require "posix.unistd"
local utsname = require "posix.sys.utsname"

local M = {}

local DEVICE_HASH = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
local TEMPLATE = "^[a-z0-9_-]+$"

--- The key of a generated file. The artifact id makes it new for every build, so that a stale upload replaces nothing.
-- @tparam string device_hash
-- @tparam string template name
-- @tparam string artifact_id UUID
-- @treturn[1] string key
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "bad_device" or "bad_template"
function M.key(device_hash, template, artifact_id)
  if #device_hash > 128 or not device_hash:match(DEVICE_HASH) then
    local rule = "must be 1 to 128 of A-Z a-z 0-9 _ - . and not begin with a dot"
    return nil, ("storage: device_hash %q: %s"):format(device_hash, rule), "bad_device"
  end
  if #template > 64 or not template:match(TEMPLATE) then
    return nil, ("storage: template %q: must be 1 to 64 of a-z 0-9 _ -"):format(template), "bad_template"
  end
  return ("generated/%s/%s_%s.ate"):format(device_hash, template, artifact_id)
end

--- Whether a key is one that `key` can have made, or a folder-like prefix of such.
-- @tparam string key
-- @treturn boolean
function M.is_safe(key)
  return #key > 0 and #key <= 1000 and not key:find("[^A-Za-z0-9._/-]")
    and not ("/" .. key .. "/"):find("//", 1, true) and not ("/" .. key):find("/.", 1, true)
end

--- What lies in a store's staging folder: its name tells whose it is, so that what was left by the dead is found.
-- @tparam string root the staging folder
-- @tparam string name without a dot
-- @treturn string path
function M.draft(root, name)
  return ("%s/%s@%d.%s"):format(root, utsname.uname().nodename, unistd.getpid(), name)
end

local function kind_of(config)
  if config.storage then
    return config.storage
  end
  return config.supabase_url and config.supabase_service_role_key and "supabase" or "local"
end

--- What somebody who set up half of a project may not have meant: his files go to this host's disk.
-- @tparam table config
-- @treturn ?string warning
function M.doubt(config)
  if not config.storage and config.supabase_url and not config.supabase_service_role_key then
    return "files go to this host's disk, not to the Supabase project: SUPABASE_SERVICE_ROLE_KEY is not set; "
      .. "storage = \"local\" says that this is meant"
  end
end

--- Opens the store of templates: the same, but for its bucket where it has such.
-- @tparam table config
-- @return as `open`
function M.open_templates(config)
  local own = { supabase_bucket = config.supabase_templates }
  return require("storage." .. kind_of(config)).open(setmetatable(own, { __index = config }))
end

--- Opens the store that the configuration names.
-- @tparam table config see config.lua
-- @treturn[1] table store
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.open(config)
  return require("storage." .. kind_of(config)).open(config)
end

return M
