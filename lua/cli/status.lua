local config = require "config"
local http = require "atelier.http"
local json = require "atelier.json"
local launch = require "daemon.launch"
local postgres = require "postgres"
local signal = require "posix.signal"
local term = require "cli.term"

local M = {
  example = "atelier status\natelier status --json | jq .queue",
}

local ANSWER_SECONDS = 5
local QUEUE = [[select status, count(*)::int as jobs, extract(epoch from now() - min(created_at))::float8 as oldest
  from file_generation_queue where status in ('queued', 'processing', 'failed') group by status]]

function M.options(parser)
  parser:description("Tells of the service over this configuration's state folder. Exit code 0: it runs\n"
    .. "and is ready. A configuration that is broken is told of, too, and does not hide the service.")
end

--- Whether a process is a master. One that was killed leaves its file behind, and its number may be another's by now.
-- @tparam integer pid
-- @treturn boolean
function M.is_master(pid)
  local file = signal.kill(pid, 0) and io.open(("/proc/%d/cmdline"):format(pid), "r")
  local title = file and file:read "a" or ""
  if file then
    file:close()
  end
  return title:find("^atelier: master%z") ~= nil
end

-- The front's own word: what a load balancer sees.
local function ask_ready(url)
  local response, message = http.request { url = url .. "/readyz", timeout = ANSWER_SECONDS }
  if not response then
    return { ready = false, reason = message }
  end
  local answer = json.decode(response.body or "") or {}
  local is_ready = response.status == 200
  return { ready = is_ready, reason = not is_ready and "its database is not reached: the log says why" or nil,
    generation = answer.generation }
end

local function database_url(values)
  if values.database_url then
    return values.database_url
  end
  local cluster = postgres.status { dir = values.state_dir .. "/postgres" }
  return cluster and cluster.running and cluster.url
end

-- Jobs by state; nil when the database cannot tell.
local function ask_queue(values)
  local url = database_url(values)
  local conn = url and require("atelier.pg").connect(url, { timeout = ANSWER_SECONDS })
  local rows = conn and conn:query(QUEUE, {}, { timeout = ANSWER_SECONDS })
  if conn then
    conn:close()
  end
  if not rows then
    return nil
  end
  local queue = {}
  for _, status in ipairs { "queued", "processing", "failed" } do
    queue[status] = { jobs = 0 }
  end
  for _, row in ipairs(rows) do
    queue[row.status] = { jobs = row.jobs, oldest_seconds = math.floor(row.oldest) }
  end
  return queue
end

local function warnings_of(problems)
  local list = {}
  for i, problem in ipairs(problems) do
    list[i] = { code = "config", message = problem .. "; a service that runs goes on with what it had" }
  end
  return list
end

function M.run()
  -- Asked most urgently where the configuration is broken: the service goes on with the former one.
  local values, problems = config.look()
  local state = launch.state(values)
  if not state or not M.is_master(state.pid) then
    return { ok = false, code = "not_running", message = "not running", exit = 1, running = false, ready = false,
      state_dir = values.state_dir, warnings = warnings_of(problems), config_errors = json.array(problems) }
  end
  local answer = ask_ready(state.url)
  local result = { running = true, warnings = warnings_of(problems), config_errors = json.array(problems),
    ready = answer.ready, reason = answer.reason, pid = state.pid, url = state.url,
    generation = state.generation, since = state.since, started_at = state.started_at, reload = state.reload,
    stopping = state.stopping, processes = json.array(state.processes),
    queue = ask_queue(values), exit = answer.ready and 0 or 1 }
  result.message = answer.ready and "running and ready" or "running, not ready"
  if not answer.ready then
    result.ok, result.code = false, "not_ready"
  end
  return result
end

local function show_processes(list)
  local rows = {}
  for _, p in ipairs(list) do
    local color = p.state == "ready" and term.green or term.yellow
    rows[#rows + 1] = { p.name, p.pid and tostring(p.pid) or "-", color(p.state), tostring(p.generation),
      tostring(p.restarts), p.since or "-", p.last_end and term.safe(p.last_end) or "" }
  end
  term.columns({ "process", "pid", "state", "generation", "restarts", "since", "last end" }, rows)
end

local function show_queue(queue)
  local parts = {}
  for _, status in ipairs { "queued", "processing", "failed" } do
    local entry = queue[status]
    local age = entry.oldest_seconds and (" (oldest %s)"):format(term.duration(entry.oldest_seconds * 1000)) or ""
    local text = ("%d %s%s"):format(entry.jobs, status, age)
    parts[#parts + 1] = status == "failed" and entry.jobs > 0 and term.red(text) or text
  end
  term.field("queue", table.concat(parts, ", "))
end

function M.show(result)
  if not result.running then
    print(term.red "not running" .. "  over " .. term.safe(result.state_dir))
    return
  end
  print(("%s  %s"):format(result.ready and term.green(result.message) or term.yellow(result.message), result.url))
  if result.reason then
    term.field("reason", term.safe(result.reason))
  end
  term.field("generation", result.generation > 0 and ("%d, since %s"):format(result.generation, result.since or "?")
    or "none yet")
  if not result.reload.ok then
    term.field("reload", term.red("refused at " .. result.reload.at) .. ": " .. term.safe(result.reload.message))
  end
  if result.queue then
    show_queue(result.queue)
  end
  print()
  show_processes(result.processes)
end

return M
