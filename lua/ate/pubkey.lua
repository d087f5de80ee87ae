--- Public keys of signers, as people pass them about: base64 of 32 bytes, or a PEM file.
local crypto = require "atelier.crypto"
local files = require "ate.files"

local M = {}

local LONGEST_PEM = 16384

local function bad(reason)
  return nil, "public key: " .. reason, "bad_key"
end

--- Reads a public key from text.
-- @tparam string text 32 raw bytes, their base64, or PEM
-- @treturn[1] string 32 bytes
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_key"
function M.parse(text)
  if type(text) ~= "string" then error("public key: must be a string, not " .. type(text), 2) end
  if #text == 32 then return text end
  if text:find("-----BEGIN ", 1, true) then
    local key, message = crypto.public_key(text)
    if not key then return bad(message) end
    local raw, reason = key:raw()
    if not raw then return bad(reason) end
    return raw
  end
  local raw = crypto.base64_decode(text:match("^%s*(.-)%s*$"))
  if not raw or #raw ~= 32 then return bad("neither base64 of 32 bytes nor PEM") end
  return raw
end

--- Reads a public key as a command line gives it: text as `parse` takes it, or the name of a file that holds such text.
-- @tparam string argument
-- @treturn[1] string 32 bytes
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_key"
function M.read(argument)
  local raw, message, code = M.parse(argument)
  if raw or argument:find("-----BEGIN ", 1, true) then return raw, message, code end
  local file <close> = files.open_read(argument)
  if not file then return nil, message .. ", and no file of that name", code end
  return M.parse(file:read(LONGEST_PEM) or "")
end

return M
