local clock = require "clock"
local gc = require "workflow.gc"
local json = require "atelier.json"
local session = require "cli.session"
local term = require "cli.term"
local time = require "posix.time"

local M = {
  example = "atelier gc --dry-run\natelier gc --grace 3600 --json",
}

function M.options(parser)
  parser:flag("--dry-run", "Only tell what would be done.")
  parser:option("--grace", "Seconds that an object without a row is left alone, 600 at least (default: orphan_grace).")
    :convert(tonumber)
  parser:flag("--force", "Delete also where most objects have no row: is it the right database?")
  parser:option("--rate", "At most so many requests to the store a second."):convert(tonumber):default "200"
end

local PAGE = 200 -- requests that a page of files takes, about

local function pacer(rate)
  local due = clock.now()
  return function()
    due = math.max(due + PAGE / rate, clock.now() - 1)
    local left = due - clock.now()
    if left > 0 then
      time.nanosleep { tv_sec = left // 1 | 0, tv_nsec = left % 1 * 1e9 // 1 | 0 }
    end
  end
end

local function draw(quiet)
  return function(objects)
    if not quiet and term.is_terminal() then
      io.stderr:write(("\r  %d objects met "):format(objects))
    end
  end
end

function M.run(args)
  if args.grace and (args.grace < 600 or args.grace ~= args.grace) or args.rate <= 0 or args.rate ~= args.rate then
    return nil, "gc: --grace must be 600 or more, --rate above 0", "usage"
  end
  return session.with(function(s)
    local conn = s.database
    local result, message, code = gc.run { store = s.store, config = s.config, dry_run = args.dry_run,
      force = args.force, grace = args.grace or s.config.orphan_grace, pause = pacer(args.rate),
      on_progress = draw(args.json),
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
end

return M
