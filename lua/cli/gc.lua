local clock = require "clock"
local gc = require "workflow.gc"
local json = require "atelier.json"
local session = require "cli.session"
local term = require "cli.term"
local time = require "posix.time"

local M = {
  example = "atelier gc --dry-run\natelier gc --grace 3600 --json\natelier gc --verify --dry-run",
}

function M.options(parser)
  parser:flag("--dry-run", "Only tell what would be done.")
  parser:option("--grace", "Seconds that an object without a row is left alone, 600 at least (default: orphan_grace).")
    :convert(tonumber)
  parser:flag("--force", "Delete also where most objects have no row: is it the right database?")
  parser:flag("--verify", "Read the bytes of every file, too, and have those built anew whose hash is another one.")
  parser:option("--read-rate", "With --verify: at most so many MiB a second."):convert(tonumber):default "50"
  parser:option("--rate", "At most so many requests to the store a second."):convert(tonumber):default "200"
end

-- Is told what was done, and waits until that has had its time.
local function pacer(rate)
  local due = clock.now()
  return function(amount)
    due = math.max(due + amount / rate, clock.now() - 1)
    local left = due - clock.now()
    if left > 0 then
      time.nanosleep { tv_sec = left // 1 | 0, tv_nsec = left % 1 * 1e9 // 1 | 0 }
    end
  end
end

local function draw(quiet)
  return function(objects, read)
    if not quiet and term.is_terminal() then
      io.stderr:write(("\r  %d objects met%s "):format(objects, read > 0 and (", %d files read"):format(read) or ""))
    end
  end
end

local function is_rate(n)
  return n > 0
end

function M.run(args)
  if args.grace and (args.grace < 600 or args.grace ~= args.grace) or not is_rate(args.rate)
    or not is_rate(args.read_rate) then
    return nil, "gc: --grace must be 600 or more, --rate and --read-rate above 0", "usage"
  end
  local ask_pace, read_pace = pacer(args.rate), pacer(args.read_rate * (1 << 20))
  return session.with(function(s)
    local conn = s.database
    local result, message, code = gc.run { store = s.store, config = s.config, dry_run = args.dry_run,
      force = args.force, grace = args.grace or s.config.orphan_grace, on_progress = draw(args.json),
      pause = ask_pace,
      on_read = args.verify and function(bytes)
        ask_pace(1)
        read_pace(bytes)
      end or nil,
      ask = function(sql, params)
        return conn:query(sql, params)
      end }
    if not result then
      return nil, message, code
    end
    for _, name in ipairs { "orphans", "missing", "requeued", "not_entitled" } do
      result[name] = json.array(result[name])
    end
    result.dry_run = args.dry_run or false
    result.verified = args.verify and result.verified or nil
    return result
  end)
end

function M.show(result)
  if term.is_terminal() then
    io.stderr:write "\r\27[K"
  end
  local would = result.dry_run and "would be " or ""
  for _, key in ipairs(result.orphans) do
    print(("%sdeleted: %s has no row"):format(would, term.line(key)))
  end
  for _, key in ipairs(result.requeued) do
    print(("%sbuilt anew: %s is not there, or damaged"):format(would, term.line(key)))
  end
  for _, lost in ipairs(result.not_entitled) do
    print(("not built anew: %s is not there, or damaged; may not be had: %s"):format(term.line(lost.key), lost.reason))
  end
  print(("%d orphans, %d missing or damaged (%d requeued, %d not entitled), %d temporary files, %d staging folders")
    :format(#result.orphans, #result.missing, #result.requeued, #result.not_entitled, result.unfinished,
      result.staging))
  if result.verified then
    print(("the bytes of %d files were read"):format(result.verified))
  end
end

return M
