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

-- Opens a new connection in place of the session's lost one.
local function reconnect(s)
  local former = rawget(s, "conn")
  if former then
    former:close()
  end
  s.conn, s.database = nil, nil
  local ok, conn = pcall(function()
    return s.database
  end)
  if ok then
    return conn
  elseif type(conn) ~= "table" then
    error(conn, 0)
  end
  return nil, conn.message, conn.code
end

--- A worker of this session: it outlives a lost database, and SIGTERM and SIGINT end it well.
-- @tparam table s session
-- @tparam[opt] function on_event see workflow.worker
-- @treturn table worker
function M.worker(s, on_event)
  local w = worker.new { conn = s.database, store = s.store, ring = s.new_ring, config = s.config, on_event = on_event,
    connect = function()
      return reconnect(s)
    end }
  stop_on_signals(w)
  return w
end

--- Works until nothing is waiting, or until told to stop; then hands back what is left.
-- @tparam table w worker
-- @tparam[opt] boolean once
-- @treturn[1] table counts
-- @treturn[1] integer how many jobs were handed back
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.work(w, once)
  local counts, message, code
  if once then
    counts, message, code = w:drain()
  else
    counts, message, code = w:serve()
  end
  local released, problem, why = w:release() -- after a failure too: what is left should cost nobody a retry
  if not counts then
    return nil, message, code
  elseif not released then
    return nil, problem, why
  end
  return counts, released
end

function M.run(args)
  return session.with(function(s)
    local w = M.worker(s)
    local counts, released, code = M.work(w, args.once)
    if not counts then
      return nil, released, code
    end
    return { completed = counts.completed, failed = counts.failed, lost = counts.lost, released = released,
      worker_id = w.queue.id, exit = args.once and counts.failed > 0 and 1 or 0 }
  end)
end

function M.show(result)
  print(("%s completed, %s failed, %d lost to a newer attempt, %d handed back"):format(
    term.green(result.completed), result.failed > 0 and term.red(result.failed) or "0", result.lost, result.released))
end

return M
