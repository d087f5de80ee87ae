local json = require "atelier.json"
local schema = require "api.schema"
local session = require "cli.session"
local term = require "cli.term"

local M = {
  example = "atelier queue list --status failed\natelier queue retry 0b6f4d0c-…\natelier queue cancel 0b6f4d0c-…",
}

function M.options(parser)
  parser:command_target "action"
  parser:require_command(true)
  local list = parser:command("list", "The newest jobs, by state if asked.")
  list:option("--status", "queued, processing, completed, failed or cancelled.")
    :choices { "queued", "processing", "completed", "failed", "cancelled" }
  list:option("--limit", "How many.", "50"):convert(math.tointeger)
  local retry = parser:command("retry", "Run failed or cancelled jobs again.")
  retry:argument("id", "Queue ids."):args "+"
  local cancel = parser:command("cancel", "Call queued jobs off.")
  cancel:argument("id", "Queue ids."):args "+"
  local examples = { ["list --status failed"] = list, ["retry 0b6f4d0c-…"] = retry, ["cancel 0b6f4d0c-…"] = cancel }
  for example, sub in pairs(examples) do
    sub:epilog("Example:\n   atelier queue " .. example)
    sub:flag("--json", "Print one JSON object on standard output.")
  end
end

local LIST = [[select q.id::text as queue_id, d.device_hash, t.name as template, q.status, q.priority, q.attempt,
    q.retry_count, q.max_retries, q.error_message, q.created_at, q.updated_at
  from file_generation_queue q join devices d on d.id = q.device_id join ate_templates t on t.id = q.template_id
  where $1::text is null or q.status = $1
  order by q.created_at desc, q.id limit $2]]
-- A retried job goes back in the queue, or into the newer one that waits; what has ended cannot be called off.
local CHANGE = {
  retry = "select retry_ate_generation($1::uuid)::text as id",
  cancel = "select case when cancel_ate_generation($1::uuid) then $1 end as id",
}
local REFUSALS = { AT006 = "unknown_job", AT007 = "bad_state" }

local UUID = schema.uuid()

-- All are looked at before anything is done.
local function refuse_ids(action, ids)
  for _, id in ipairs(ids) do
    if schema.fault(UUID, id) then
      return nil, ("queue %s: %s: is no job's id, which is a UUID as `atelier queue list` shows it"):format(action, id),
        "bad_id"
    end
  end
  return true
end

local function change(conn, action, ids)
  local done = json.array {}
  for _, id in ipairs(ids) do
    local rows, message, state = conn:query(CHANGE[action], { id })
    if rows and rows[1].id == json.null then
      rows, message, state = nil, "has ended already", "AT007"
    end
    if not rows then
      local so_far = #done > 0 and (" (done before: %s)"):format(table.concat(done, ", ")) or ""
      return nil, ("queue %s: %s: %s%s"):format(action, id, message, so_far), REFUSALS[state] or state
    end
    done[#done + 1] = rows[1].id
  end
  return { jobs = done, message = ("%s: %s"):format(action, table.concat(done, ", ")) }
end

function M.run(args)
  if args.action ~= "list" then
    local ok, message, code = refuse_ids(args.action, args.id)
    if not ok then
      return nil, message, code
    end
  end
  return session.with(function(s)
    if args.action ~= "list" then
      return change(s.database, args.action, args.id)
    end
    local rows, message, code = s.database:query(LIST, { args.status or json.null, args.limit })
    return rows and { jobs = json.array { table.unpack(rows) } }, message, code
  end)
end

function M.show(result, args)
  if args.action ~= "list" then
    print(result.message)
    return
  end
  local rows = {}
  for _, job in ipairs(result.jobs) do
    rows[#rows + 1] = { job.queue_id, job.status, job.device_hash, job.template, tostring(job.priority),
      tostring(job.attempt), job.error_message == json.null and "" or term.safe(job.error_message) }
  end
  term.columns({ "job", "state", "device", "template", "priority", "attempt", "reason" }, rows)
end

return M
