--- The worker: claims a batch, builds it, stores it, and completes it while the next one is being built.
--
-- One turn of the loop is: build what was claimed (each file starts on its way to the store at once), wait for the
-- *previous* batch's files, then complete those and claim more in one transaction. So the disk is busy while the
-- processor is, and a batch costs one commit.
-- @module workflow.worker
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local clock = require "clock"
local generate = require "workflow.generate"
local log = require "log"
local unistd = require "posix.unistd"
local utsname = require "posix.sys.utsname"

local M = {}
local Worker = {}
Worker.__index = Worker

local COMPLETE = "select queue_id, ate_file_id, error from complete_ate_generations($1)"
local CLAIM = "select * from claim_ate_generations($1, $2, $3::interval, $4)"
local FAIL = "select fail_ate_generation($1, $2, $3, $4)"
local RELEASE = "select release_ate_generations($1) as released"
local RENEW = "select renew_ate_lease($1, $2::interval) as renewed"

local POLL_SECONDS = 1

-- Failures that another attempt may not have; every other one is the input's, and final.
local TRANSIENT = {
  io = true, full = true, read_only = true, busy = true, timeout = true, connection = true, memory = true,
  template_version = true, keyring = true,
}

--- A new worker.
-- @tparam table options conn (database), store, ring, config; on_event(name, job, artifact or message) is optional
-- @treturn table worker
function M.new(options)
  return setmetatable({
    -- Names one process start, never again: the queue tells the dead from the living by it.
    id = ("%s-%d-%s"):format(utsname.uname().nodename, unistd.getpid(), crypto.hex(crypto.random(6))),
    conn = options.conn,
    store = options.store,
    config = options.config,
    on_event = options.on_event or function() end,
    builder = generate.new(options),
    stored = { completed = 0, failed = 0, lost = 0 },
    stopping = false,
  }, Worker)
end

function Worker:lease()
  return ("%g seconds"):format(self.config.worker_lease)
end

-- Completes what is stored and claims up to `want` more, in one transaction. Returns the claimed jobs.
function Worker:exchange(done, want, only)
  local statements = {}
  if #done > 0 then
    statements[1] = { COMPLETE, { json.encode(json.array(done)) } }
  end
  if want > 0 then
    statements[#statements + 1] = { CLAIM, { self.id, want, self:lease(), only or json.null } }
  end
  if #statements == 0 then
    return {}
  end
  local results, message, code = self.conn:pipeline(statements)
  if not results then
    return nil, message, code
  end
  if #done > 0 then
    self:settle_completed(done, results[1])
  end
  return want > 0 and results[#results] or {}
end

-- Tells the completed from the lost. A lost one has a newer attempt or row; its object is ours alone and goes.
function Worker:settle_completed(done, rows)
  local by_id = {}
  for _, member in ipairs(done) do
    by_id[member.queue_id] = member
  end
  for _, row in ipairs(rows) do
    local member = by_id[row.queue_id]
    if row.error == json.null then
      self.stored.completed = self.stored.completed + 1
      local finished = self.finishing[row.queue_id]
      finished.artifact.ate_file_id = row.ate_file_id
      self.on_event("completed", finished.job, finished.artifact)
    elseif member then
      self.stored.lost = self.stored.lost + 1
      log.warn("job lost", { queue_id = row.queue_id, attempt = member.attempt, reason = row.error })
      self.store:delete { member.file_path }
      self.on_event("lost", self.finishing[row.queue_id].job, row.error)
    end
  end
  self.finishing = {}
end

-- Records a failure; that the job is no longer ours is no news to anybody.
function Worker:fail(job, message, code)
  local permanent = not TRANSIENT[code] and not tostring(code):match("^E%u+$")
  log.error("job failed", { queue_id = job.queue_id, device = job.device_hash, code = code, permanent = permanent,
    reason = message })
  local text = ("%s (%s)"):format(message, code or "error")
  local ok, problem, state = self.conn:query(FAIL, { job.queue_id, text:sub(1, 4000), job.attempt, permanent })
  self.stored.failed = self.stored.failed + 1
  self.on_event("failed", job, message)
  if not ok and state == "connection" then
    return nil, problem, state
  elseif not ok then
    log.warn("failure not recorded", { queue_id = job.queue_id, reason = problem })
  end
  return true
end

-- A build that raises is a defect of ours or of a script: the job fails, the worker goes on.
local function build(builder, job)
  local ok, artifact, message, code = xpcall(builder.build, debug.traceback, builder, job)
  if not ok then
    log.error("build raised", { queue_id = job.queue_id, reason = artifact })
    return nil, "internal error: " .. tostring(artifact):match("^[^\n]*"), "internal"
  end
  return artifact, message, code
end

-- Builds the claimed jobs; their files are then on the way to the store.
function Worker:build(jobs)
  local sent = {}
  local renewed = clock.now()
  for _, job in ipairs(jobs) do
    if self.stopping then
      break
    end
    if clock.now() - renewed > self.config.worker_lease / 3 then
      renewed = clock.now()
      self.conn:query(RENEW, { self.id, self:lease() })
    end
    self.on_event("building", job)
    local artifact, message, code = build(self.builder, job)
    if artifact then
      sent[#sent + 1] = { job = job, artifact = artifact }
    else
      local ok, problem, state = self:fail(job, message, code)
      if not ok then
        return nil, problem, state
      end
    end
  end
  return sent
end

-- Waits until the store has what was sent; what it refused fails. Returns the members for `exchange`.
function Worker:settle(sent)
  local done = {}
  self.finishing = self.finishing or {}
  for _, item in ipairs(sent) do
    local job, artifact = item.job, item.artifact
    local ok, message, code = self.store:wait(artifact.ticket)
    if ok then
      artifact.timing.store = (clock.now() - artifact.timing.stored_from) * 1000
      self.finishing[job.queue_id] = item
      done[#done + 1] = {
        queue_id = job.queue_id,
        attempt = job.attempt,
        file_path = artifact.key,
        file_size = artifact.size,
        checksum = artifact.checksum,
        encryption_key_hash = artifact.encryption_key_hash,
        generated_variables = artifact.variables,
      }
    else
      local recorded, problem, state = self:fail(job, message, code)
      if not recorded then
        return nil, problem, state
      end
    end
  end
  return done
end

--- Works until nothing is left to claim (or `stop` was called), then returns. Blocks; never yields.
-- @tparam[opt] string only the queue id of the one job to work
-- @treturn[1] table counts: completed, failed, lost
-- @return[2] nil: the database is gone; its claimed jobs run again elsewhere
-- @treturn[2] string message
-- @treturn[2] string code
function Worker:drain(only)
  local want = only and 1 or self.config.worker_batch
  local jobs, message, code = self:exchange({}, want, only)
  local sent = {}
  while jobs do
    local previous = sent
    sent, message, code = self:build(jobs)
    if not sent then
      return nil, message, code
    end
    -- A full batch suggests more work: leave its files to the disk meanwhile. Else finish everything now.
    if #jobs < want or self.stopping then
      table.move(sent, 1, #sent, #previous + 1, previous)
      sent = {}
    end
    local done
    done, message, code = self:settle(previous)
    if not done then
      return nil, message, code
    end
    local idle = #jobs < want or self.stopping
    if idle and #done == 0 then
      return self.stored
    end
    jobs, message, code = self:exchange(done, (self.stopping or only) and 0 or want)
  end
  return nil, message, code
end

--- Works the queue until `stop`: at once when a job is announced, and now and then in case an announcement was lost
-- (behind a transaction pooler all are). Blocks; never yields.
-- @treturn[1] table counts as of `drain`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Worker:serve()
  local ok, message, code = self.conn:listen "ate_queue"
  if not ok then
    return nil, message, code
  end
  while not self.stopping do
    local counts
    counts, message, code = self:drain()
    if not counts then
      return nil, message, code
    end
    -- Short, so that a signal is seen soon; announcements end it at once.
    if not self.stopping then
      ok, message, code = self.conn:notifications(POLL_SECONDS)
      if not ok then
        return nil, message, code
      end
    end
  end
  return self.stored
end

--- Asks the loop to end: what is stored is completed, what is not built is handed back.
function Worker:stop()
  self.stopping = true
end

--- Hands back whatever this worker still holds, at no cost to the jobs' retries.
-- @treturn[1] integer number handed back
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Worker:release()
  local rows, message, code = self.conn:query(RELEASE, { self.id })
  if not rows then
    return nil, message, code
  end
  return rows[1].released
end

return M
