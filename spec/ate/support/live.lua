--- Counts native handles: a spec must end with no more of them than it began with.
local crypto = require "atelier.crypto"
local zip = require "atelier.zip"

local M = {}

local function count()
  collectgarbage()
  collectgarbage()
  return crypto.live_handles() + zip.live_handles()
end

local before

--- Call it first.
function M.mark() before = count() end

--- Call it last.
function M.check() assert(count() == before, "native handles are still alive") end

return M
