--- What a store really has of an object: reads its bytes, a piece at a time, and gives their hash.
-- @module storage.hash
local crypto = require "atelier.crypto"
local pour = require "storage.pour"

local M = {}

--- The hash of an object's bytes.
-- @tparam table store see storage
-- @tparam string key
-- @tparam[opt] function see called with the number of bytes of each piece that was read
-- @treturn[1] string SHA-256 in hex
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of the store; "unreadable": it is there, and a disk does not give its bytes
function M.of(store, key, see)
  local source, message, code = store:get(key)
  if not source then
    return nil, message, code
  end
  local from <close> = source
  local hash <close> = crypto.hash()
  local ok, problem, why = pour.pour(from, function(data)
    hash:update(data)
    if see then
      see(#data)
    end
    return true
  end)
  if not ok then
    return nil, ("storage: read %s: %s"):format(key, problem), why == "io" and "unreadable" or why
  end
  return crypto.hex(hash:digest())
end

return M
