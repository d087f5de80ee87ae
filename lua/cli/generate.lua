local clock = require "clock"
local files = require "ate.files"
local interrupt = require "ate.interrupt"
local json = require "atelier.json"
local pour = require "storage.pour"
local progress = require "cli.progress"
local session = require "cli.session"
local term = require "cli.term"
local worker = require "workflow.worker"

local M = {
  example = "atelier generate --device DEMO-PRO-001 --out pro.ate",
}

function M.options(parser)
  parser:description("Queues the job, works it here and waits for its end. A run that fails for a reason that may\n"
    .. "pass is repeated as in the service: up to three times, each after a longer pause.")
  parser:option("--device", "The device's hash."):argname("H"):count "1"
  parser:option("--template", "The template's name.", "smartgram"):argname "T"
  parser:option("--out", "Also copy the file there, whole or not at all."):argname "FILE"
end

local QUEUE = "select queue_ate_generation($1, $2, 1)::text as id"
local JOB = [[select status, coalesce(error_message, '') as error_message, retry_count,
    extract(epoch from run_after - clock_timestamp())::float8 as wait from file_generation_queue where id = $1]]
local FILE = [[select f.id, f.filename, f.file_path, f.file_size_bytes, f.checksum, f.expires_at, f.container,
    f.generation, f.generated_variables -> 'plan' as plan, f.generated_variables -> 'plan_tools' as tools
  from ate_files f join devices d on d.id = f.device_id join ate_templates t on t.id = f.template_id
  where d.device_hash = $1 and t.name = $2]]

-- The SQLSTATEs of queue_ate_generation (sql/11) as this program's codes.
local REFUSALS = {
  AT001 = "unknown_device", AT002 = "not_entitled", AT003 = "unknown_template", AT004 = "bad_priority",
}

local function query_one(conn, sql, params)
  local rows, message, code = conn:query(sql, params)
  return rows and rows[1], message, code
end

local function enqueue(conn, device, template)
  local row, message, state = query_one(conn, QUEUE, { device, template })
  if row then
    return row.id
  end
  local problem = conn:last_error() or {}
  local hint = problem.hint and problem.hint ~= "" and ". " .. problem.hint or ""
  return nil, ("generate: device %s: %s%s"):format(device, message, hint), REFUSALS[state] or state
end

local function tell_failure(job)
  io.stderr:write(term.yellow "atelier: ", ("run %d failed: %s; again %s\n"):format(job.retry_count,
    term.line(job.error_message), job.wait > 0 and "in " .. term.duration(job.wait * 1000) or "now"))
end

-- A run that failed for a reason that may pass is tried again when its backoff is over, and not before.
local function wait_for_turn(conn, job)
  local turn = clock.now() + job.wait
  repeat
    local _, message, code = conn:notifications(math.max(0.001, turn - clock.now()))
    if message then
      return nil, message, code
    end
  until clock.now() >= turn
  return true
end

-- Works the job here. Where another worker was first, waits for it; its end is announced on ate_jobs.
local function finish(s, w, id, quiet)
  local conn = s.database
  assert(conn:listen "ate_jobs")
  local deadline, told = clock.now() + 300, 0
  repeat
    local counts, message, code = w:drain(id)
    if not counts then
      return nil, message, code
    end
    local job
    job, message, code = query_one(conn, JOB, { id })
    if not job then
      return nil, message or "generate: the job is gone", code or "unknown_job"
    end
    if job.status == "completed" then
      return true
    elseif job.status == "failed" or job.status == "cancelled" then
      return nil, ("generate: the job %s: %s"):format(job.status, job.error_message), "failed"
    end
    -- The backoff has full jitter: it may be over before this look at the job, and the run is told all the same.
    local failed_again = job.status == "queued" and job.retry_count > told
    if failed_again and not quiet then
      tell_failure(job)
    end
    told = job.retry_count
    local ok = true
    if job.status == "queued" and job.wait > 0 then
      ok, message, code = wait_for_turn(conn, job)
    elseif not failed_again then
      ok, message, code = conn:notifications(1)
    end
    if not ok and message then
      return nil, message, code
    end
  until clock.now() > deadline
  return nil, "generate: another worker holds the job and has not finished it in 5 minutes", "timeout"
end

local function copy_out(store, key, path)
  local source, message, code = store:get(key)
  if not source then
    return nil, message, code
  end
  local from <close> = source
  local ok, reason
  ok, reason, code = interrupt.guard(function(stopped)
    return files.write(path, function(to)
      return pour.pour(from, function(data)
        if stopped() then
          return nil, "interrupted", "interrupted"
        end
        return to:write(data)
      end)
    end)
  end)
  if not ok then
    return nil, ("generate: --out %s: %s"):format(path, reason), code
  end
  return true
end

-- Before a job is made for nothing.
local function check_out(path)
  if not path then
    return true
  elseif path == "" then
    return nil, "generate: --out: the file's name is empty", "usage"
  end
  local ok, reason, code = files.replaceable(path)
  if not ok then
    return nil, ("generate: --out %s: %s"):format(path, reason), code
  end
  return true
end

function M.run(args)
  local possible, why, reason = check_out(args.out)
  if not possible then
    return nil, why, reason
  end
  return session.with(function(s)
    local conn, timing = s.database, {}
    local w = worker.new { conn = conn, store = s.store, ring = s.new_ring, config = s.config,
      on_event = function(event, _, artifact)
        if event == "completed" then
          timing = artifact.timing
        end
      end }
    local began = clock.now()
    local id, message, code = enqueue(conn, args.device, args.template)
    if not id then
      return nil, message, code
    end
    -- Only where the files of this host show it: without --json, on a terminal.
    local watcher = not args.json and progress.start(s.store:staging())
    local ok
    ok, message, code = finish(s, w, id, args.json)
    w:release()
    if watcher then
      watcher:stop()
    end
    if not ok then
      return nil, message, code
    end
    local row
    row, message, code = query_one(conn, FILE, { args.device, args.template })
    if not row then
      return nil, message or "generate: the file is not recorded", code or "no_file"
    end
    if args.out then
      ok, message, code = copy_out(s.store, row.file_path, args.out)
      if not ok then
        return nil, message, code
      end
    end
    return { queue_id = id, ate_file_id = row.id, filename = row.filename, file_path = row.file_path,
      path = s.store.root and s.store.root .. "/" .. row.file_path or json.null, -- a remote store has the key alone
      size = row.file_size_bytes, checksum = row.checksum,
      plan = row.plan, tools = json.array(row.tools), container = row.container, generation = row.generation,
      expires_at = row.expires_at, out = args.out,
      timing = { build = timing.build, store = timing.store,
        total = (clock.now() - began) * 1000 } }
  end)
end

function M.show(result)
  print(term.green("done ") .. term.bold(result.filename))
  term.field("plan", result.plan)
  term.field("tools", table.concat(result.tools, ", "))
  term.field("size", term.size(result.size))
  term.field("SHA-256", result.checksum)
  term.field("expires", result.expires_at == json.null and "never" or result.expires_at)
  term.field("stored as", result.path ~= json.null and result.path or result.file_path)
  if result.out then
    term.field("copied to", result.out)
  end
  term.field("time", term.duration(result.timing.total))
end

return M
