local json = require "atelier.json"
local session = require "cli.session"
local staging = require "workflow.staging"
local stat = require "posix.sys.stat"
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
  copy:description("Exit code 1: some did not go, or are recorded but not there; 3: there is nothing to copy from. It "
    .. "stops when one object after the other fails since a store is out of order.")
  copy:flag("--json", "Print one JSON object on standard output.")
  copy:epilog [[
Example, with no downtime:
   atelier storage copy local s3        while the service runs
   storage = "s3" in atelier.conf.lua, then: systemctl reload atelier
   atelier storage copy local s3        what was made meanwhile]]
end

-- The configuration of the store that a word names.
local function place_of(config, word)
  local kind, folder = word:match "^(%l+%d?):?(.*)$"
  if not kind or not ({ ["local"] = true, supabase = true, s3 = true })[kind] or folder ~= "" and kind ~= "local" then
    return nil, ("storage copy: %q is no store; use local, local:FOLDER, supabase or s3"):format(word), "usage"
  end
  local own = { storage = kind, storage_dir = folder ~= "" and folder or nil }
  return setmetatable(own, { __index = config })
end

-- Both places, before either is touched: opening a local store makes its folder, and a mistyped one would be copied
-- from as if it were empty.
local function places_of(config, args)
  local from, message, code = place_of(config, args.from)
  local to = from
  if from then
    to, message, code = place_of(config, args.to)
  end
  if not to then
    return nil, message, code
  elseif from.storage == "local" then
    local info = stat.stat(from.storage_dir)
    if not info or stat.S_ISDIR(info.st_mode) == 0 then
      return nil, ("storage copy: %s: there is no such folder to copy from"):format(from.storage_dir), "no_source"
    end
  end
  return { from = from, to = to }
end

local RECORDED = [[select checksum from ate_files where file_path = $1
  union all select checksum from ate_file_versions where file_path = $1 limit 1]]

local function checksums(conn)
  return function(key)
    local rows = conn:query(RECORDED, { key })
    return rows and rows[1] and rows[1].checksum
  end
end

local LISTED = [[select distinct path from (
    select file_path::text collate "C" as path from ate_files where is_active and purged_path is distinct from file_path
    union all select file_path::text from ate_file_versions where purged_at is null) x
  where path > $1 order by path limit 1000]]

-- The keys that the database names, a page at a time.
local function recorded(conn)
  return function(after)
    local rows, message, code = conn:query(LISTED, { after or "" })
    local keys = {}
    for i, row in ipairs(rows or {}) do
      keys[i] = row.path
    end
    return rows and keys, message, code
  end
end

local COUNTED = [[select count(*)::int as total from (
    select file_path from ate_files where is_active and purged_path is distinct from file_path
    union select file_path from ate_file_versions where purged_at is null) x]]

-- How many the database names: more may be found, or fewer.
local function total_of(conn)
  local rows = conn:query(COUNTED)
  return rows and rows[1].total
end

--- How far a copy is, for a terminal.
-- @tparam table counts of storage.copy
-- @tparam ?integer total number of objects, where it is known
-- @treturn string
function M.line(counts, total)
  local done = counts.copied + counts.present + counts.failed
  local bar = total and ("%s  %d of %d, "):format(term.bar(done / math.max(total, done, 1), 30, term.green), done,
    math.max(total, done)) or ""
  return ("  %s%d copied, %s, %d there already, %d failed"):format(bar, counts.copied, term.size(counts.bytes),
    counts.present, counts.failed)
end

local function progress(total)
  local last = 0
  return function(counts)
    local now = os.time()
    if now > last then
      last = now
      io.stderr:write("\r\27[K" .. M.line(counts, total))
    end
  end
end

-- What is copied: where it is, and what its keys begin with.
local PARTS = {
  { open = storage.open, prefix = "generated/", recorded = recorded, total = total_of },
  { open = storage.open_templates, prefix = "templates/", is_optional = true },
}

local function copy_part(s, part, places, args)
  local opened, message, code = part.open(places.from)
  if not opened then
    return nil, message, code
  end
  local from <close> = opened
  opened, message, code = part.open(places.to)
  if not opened then
    return nil, message, code
  end
  local to <close> = opened
  staging.sweep(to:staging()) -- what one that was killed left there
  local shown = not args.json and term.is_terminal() and progress(part.total and part.total(s.database)) or nil
  return require("storage.copy").run { from = from, to = to, prefix = part.prefix, checksums = checksums(s.database),
    recorded = part.recorded and part.recorded(s.database), on_progress = shown }
end

function M.run(args)
  return session.with(function(s)
    local places, message, why = places_of(s.config, args)
    if not places then
      return nil, message, why
    end
    local all = { copied = 0, present = 0, failed = 0, bytes = 0, failures = json.array {} }
    for _, part in ipairs(PARTS) do
      local counts, failures, code = copy_part(s, part, places, args)
      if not counts and not (part.is_optional and code == "no_bucket") then
        return nil, failures, code
      elseif counts then
        for name, count in pairs(counts) do
          all[name] = all[name] + count
        end
        table.move(failures, 1, #failures, #all.failures + 1, all.failures)
      end
    end
    if all.failures[1] then
      all.ok, all.exit, all.code = false, 1, "incomplete"
      all.message = ("%d failed; the first: %s: %s"):format(all.failed, all.failures[1].key, all.failures[1].message)
    end
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
