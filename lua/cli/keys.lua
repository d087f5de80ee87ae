local json = require "atelier.json"
local keyring = require "ate.keyring"
local session = require "cli.session"
local stat = require "posix.sys.stat"
local term = require "cli.term"

local M = {
  example = "atelier keys list --json\natelier keys rotate --signing",
}

function M.options(parser)
  parser:command_target "action"
  parser:require_command(true)
  local new = parser:command("new", "Make a key ring with one master and one signing key.")
  local list = parser:command("list", "Show the keys' ids and the public keys; never a secret.")
  local rotate = parser:command("rotate", "Add new keys and make them current; the old ones stay for old files.")
  rotate:flag("--master", "Rotate the master key only: licence keys change, and files are made anew.")
  rotate:flag("--signing", "Rotate the signing key only.")
  for name, sub in pairs { new = new, list = list, rotate = rotate } do
    sub:epilog("Example:\n   atelier keys " .. name .. (name == "rotate" and " --signing" or ""))
    sub:flag("--json", "Print one JSON object on standard output.")
  end
end

-- A new master key changes licence keys: the files that any former one made are queued to be made anew, also those
-- that an earlier rotation could not queue.
local REQUEUE = [[select coalesce(sum(requeue_ate_files(former.id)), 0)::int8 as queued
  from (select distinct master_key_id as id from ate_files where master_key_id <> $1) former]]

local function rotate(s, args)
  local both = not args.master and not args.signing
  local which = { master = args.master or both, signing = args.signing or both }
  -- Opened first: where the database is down, nothing is rotated.
  local database = which.master and s.database
  local ok, message, code = s.ring:rotate(which)
  if not ok then
    return nil, message, code
  end
  local result = { keys = json.array(s.ring:list()), queued = 0, warnings = {} }
  if which.master then
    local rows
    rows, message = database:query(REQUEUE, { (select(2, s.ring:master())) })
    if rows then
      result.queued = rows[1].queued
    else
      result.warnings[1] = { code = "not_queued", message = "the keys are new, but files are not queued: " .. message }
    end
  end
  return result
end

function M.run(args)
  return session.with(function(s)
    if args.action == "rotate" then
      return rotate(s, args)
    end
    local ring, message, code
    if args.action == "new" then
      stat.mkdir(s.config.state_dir, tonumber("755", 8)) -- the first thing that is made, on a new machine
      ring, message, code = keyring.create(s.config.keyring)
    else
      ring, message, code = s.ring, nil, nil
    end
    return ring and { path = s.config.keyring, keys = json.array(ring:list()) }, message, code
  end)
end

function M.show(result)
  local rows = {}
  for _, key in ipairs(result.keys) do
    rows[#rows + 1] = { key.kind, key.id, key.current and term.green("current") or "kept", key.created_at,
      key.public or "" }
  end
  term.columns({ "kind", "id", "state", "made", "public key (base64)" }, rows)
  if result.queued and result.queued > 0 then
    print(("%d files are queued to be made with the new master key."):format(result.queued))
  end
end

return M
