local secret = require "api.secret"
local session = require "cli.session"
local term = require "cli.term"
local token = require "api.token"

local M = {
  example = "atelier token --user d0000000-0000-4000-8000-000000000002 --ttl 1h\n"
    .. 'curl -H "Authorization: Bearer $(atelier token --operator)" http://127.0.0.1:8787/api/ops/queue',
}

local UNITS = { s = 1, m = 60, h = 3600, d = 86400 }
local LONGEST = 366 * 86400
local UUID = ("^h8-h4-h4-h4-h12$"):gsub("%-", "%%-"):gsub("h(%d+)", function(n)
  return ("%x"):rep(tonumber(n))
end)

local function read_duration(text)
  local count, unit = text:match "^(%d+)([smhd]?)$"
  local seconds = count and #count < 10 and tonumber(count) * UNITS[unit == "" and "s" or unit]
  if not seconds or seconds < 1 or seconds > LONGEST then
    return nil, ("'%s' is no duration from 1s to 366d, such as 90s, 15m, 1h or 7d"):format(text)
  end
  return seconds
end

local function read_user(text)
  if not text:find(UUID) then
    return nil, ("'%s' is not a user's id, which is a UUID"):format(text)
  end
  return text:lower()
end

function M.options(parser)
  parser:mutex(
    parser:option("--user", "For a user, by id."):argname("U"):convert(read_user),
    parser:flag("--operator", "For an operator: whoever has it may do everything under /api/ops."))
  parser:option("--ttl", "How long it is good: seconds, or with m, h, d.", "1h"):argname("TIME"):convert(read_duration)
end

-- Only what signs tokens is opened: it works while the database is down.
function M.run(args)
  if not args.user and not args.operator then
    return nil, "token: --user or --operator is missing", "usage"
  end
  return session.with(function(s)
    local key, message, code = secret.ensure(s.config)
    if not key then
      return nil, message, code
    end
    local now = os.time()
    local text = args.user and token.user(key, s.config, args.user, args.ttl, now)
      or token.operator(key, s.config, args.ttl, now)
    return { token = text, user = args.user, role = args.user and "authenticated" or "service_role",
      expires_at = os.date("!%Y-%m-%dT%H:%M:%SZ", now + args.ttl) }
  end)
end

function M.show(result)
  print(result.token)
  io.stderr:write(term.dim("good until " .. result.expires_at), "\n")
end

return M
