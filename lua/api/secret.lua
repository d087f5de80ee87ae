--- The secret of HS256 tokens: the configured one, or one that is made once in the state folder.
-- @module api.secret
local crypto = require "atelier.crypto"
local files = require "ate.files"
local stdio = require "posix.stdio"
local stat = require "posix.sys.stat"

local M = {}

local SHORTEST = 16
local OTHERS = 63 -- mode bits of group and world

local function wrap(path, reason, code)
  return nil, ("token secret: %s: %s"):format(path, reason), code
end

local function load(path)
  local file <close>, reason, code = files.open_read(path)
  if not file then
    return wrap(path, reason, code)
  elseif stat.fstat(stdio.fileno(file)).st_mode & OTHERS ~= 0 then
    return wrap(path, "others can read it; do: chmod 600 " .. path, "bad_mode")
  end
  local text = (file:read(4096) or ""):match "^%s*(.-)%s*$"
  if #text < SHORTEST then
    return wrap(path, "is damaged", "bad_secret")
  end
  return crypto.secret(text)
end

local function create(path)
  local ok, reason, code = files.write(path, function(file)
    local written, message, number = file:write(crypto.base64url_encode(crypto.random(32)), "\n")
    if not written then
      return files.failure(written, message, number)
    end
    return true
  end, { exclusive = true })
  if not ok and code ~= "EEXIST" then
    return wrap(path, reason, code)
  end
  return load(path) -- another process may have been faster
end

--- The secret, made on the first use where none is configured.
-- @tparam table config `jwt_secret`, `state_dir`
-- @treturn[1] secret
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_mode", "bad_secret" or an errno symbol
function M.ensure(config)
  if config.jwt_secret then
    if #config.jwt_secret < SHORTEST then
      return nil, ("token secret: jwt_secret: must have at least %d characters"):format(SHORTEST), "bad_secret"
    end
    return crypto.secret(config.jwt_secret)
  end
  local path = config.state_dir .. "/jwt_secret"
  local secret, message, code = load(path)
  if secret or code ~= "ENOENT" then
    return secret, message, code
  end
  stat.mkdir(config.state_dir, tonumber("755", 8)) -- whatever the umask: nobody else may put another in its place
  return create(path)
end

return M
