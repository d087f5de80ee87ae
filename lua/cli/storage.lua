local json = require "atelier.json"
local session = require "cli.session"
local storage = require "storage"
local term = require "cli.term"

local M = {
  example = "atelier storage copy local s3\natelier storage copy local:/srv/old/files supabase --json",
}

function M.options(parser)
  parser:command_target "action"
  parser:require_command(true)
  local copy = parser:command("copy",
    "Copy all files and templates into another store, verified; begin again as often as you like.")
  copy:argument("from", "Where they are: local, local:FOLDER, supabase or s3, as configured.")
  copy:argument("to", "Where they are to go.")
  copy:flag("--json", "Print one JSON object on standard output.")
  copy:epilog [[
Example, with no downtime:
   atelier storage copy local s3        while the service runs
   storage = "s3" in atelier.conf.lua, then: systemctl reload atelier
   atelier storage copy local s3        what was made meanwhile]]
end

-- The store that a word names, opened by one of storage's functions.
local function open(config, word, opener)
  local kind, folder = word:match "^(%l+%d?):?(.*)$"
  if not kind or not ({ ["local"] = true, supabase = true, s3 = true })[kind] or folder ~= "" and kind ~= "local" then
    return nil, ("storage copy: %q is no store; use local, local:FOLDER, supabase or s3"):format(word), "bad_store"
  end
  local own = { storage = kind, storage_dir = folder ~= "" and folder or nil }
  return opener(setmetatable(own, { __index = config }))
end

local RECORDED = [[select checksum from ate_files where file_path = $1
  union all select checksum from ate_file_versions where file_path = $1 limit 1]]

local function checksums(conn)
  return function(key)
    local rows = conn:query(RECORDED, { key })
    return rows and rows[1] and rows[1].checksum
  end
end

local function progress(quiet)
  local last = 0
  return function(counts)
    local now = os.time()
    if not quiet and now > last and term.is_terminal() then
      last = now
      io.stderr:write(("\r  %d copied, %s, %d there already, %d failed "):format(counts.copied, term.size(counts.bytes),
        counts.present, counts.failed))
    end
  end
end

-- What is copied: where it is, and what its keys begin with.
local PARTS = {
  { open = storage.open, prefix = "generated/" },
  { open = storage.open_templates, prefix = "templates/", is_optional = true },
}

local function copy_part(s, part, args)
  local opened, message, code = open(s.config, args.from, part.open)
  if not opened then
    return nil, message, code
  end
  local from <close> = opened
  opened, message, code = open(s.config, args.to, part.open)
  if not opened then
    return nil, message, code
  end
  local to <close> = opened
  return require("storage.copy").run { from = from, to = to, prefix = part.prefix, checksums = checksums(s.database),
    on_progress = progress(args.json) }
end

function M.run(args)
  return session.with(function(s)
    local all = { copied = 0, present = 0, failed = 0, bytes = 0, failures = json.array {} }
    for _, part in ipairs(PARTS) do
      local counts, failures, code = copy_part(s, part, args)
      if not counts and not (part.is_optional and code == "no_bucket") then
        return nil, failures, code
      elseif counts then
        for name, count in pairs(counts) do
          all[name] = all[name] + count
        end
        table.move(failures, 1, #failures, #all.failures + 1, all.failures)
      end
    end
    all.exit = all.failures[1] and 1 or 0
    return all
  end)
end

function M.show(result)
  if term.is_terminal() then
    io.stderr:write "\r\27[K"
  end
  for _, failure in ipairs(result.failures) do
    print(term.red(term.line(failure.key)) .. "  " .. term.line(failure.message))
  end
  print(("%s copied (%s), %d there already, %s failed"):format(term.green(result.copied), term.size(result.bytes),
    result.present, result.failed > 0 and term.red(result.failed) or "0"))
end

return M
