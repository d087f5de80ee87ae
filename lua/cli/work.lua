local session = require "cli.session"
local signal = require "posix.signal"
local term = require "cli.term"
local worker = require "workflow.worker"

local M = {
  example = "atelier work --once --json",
}

function M.options(parser)
  parser:flag("--once", "End when nothing is waiting any more.")
end

-- What is stored is completed and the rest handed back, so that stopping costs nobody a retry.
local function stop_on_signals(w)
  for _, number in ipairs { signal.SIGTERM, signal.SIGINT } do
    signal.signal(number, function()
      w:stop()
    end)
  end
end

function M.run(args)
  return session.with(function(s)
    local w = worker.new { conn = s.database, store = s.store, ring = s.new_ring, config = s.config }
    stop_on_signals(w)
    local counts, message, code
    if args.once then
      counts, message, code = w:drain()
    else
      counts, message, code = w:serve()
    end
    if not counts then
      return nil, message, code
    end
    local released
    released, message, code = w:release()
    if not released then
      return nil, message, code
    end
    return { completed = counts.completed, failed = counts.failed, lost = counts.lost, released = released,
      worker_id = w.id, exit = counts.failed > 0 and 1 or 0 }
  end)
end

function M.show(result)
  print(("%s completed, %s failed, %d lost to a newer attempt, %d handed back"):format(
    term.green(result.completed), result.failed > 0 and term.red(result.failed) or "0", result.lost, result.released))
end

return M
