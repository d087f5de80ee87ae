--- A worker's dealings with the queue: claims, completions, failures, leases, over one database session at a time.
--
-- Owns every stored object until its row is certain: one whose job is lost is deleted here, and one whose commit may or
-- may not have happened stays until it can be offered again. Knows neither how a file is made nor when to stop.
-- @module workflow.ledger
local clock = require "clock"
local crypto = require "atelier.crypto"
local failure = require "workflow.failure"
local generate = require "workflow.generate"
local json = require "atelier.json"
local log = require "log"
local offer = require "workflow.offer"
local prepared = require "workflow.prepared"
local unistd = require "posix.unistd"
local utsname = require "posix.sys.utsname"

local M = {}
local Ledger = {}
Ledger.__index = Ledger

-- Only what a build needs: the rest costs more to send and decode than the claim itself.
local CLAIM = [[select queue_id, attempt, device_id, device_hash, template_name, template_version, template_path,
    content_sha256, container, plan_name, plan_tools, license_expires_at, generation, generation_params,
    priority
  from claim_ate_generations($1, $2, $3::interval, $4)]]
local REPORT = "select report_ate_generations($1)"
local FAIL = "select fail_ate_generation($1, $2, $3, $4)"
local RELEASE = "select release_ate_generations($1) as released"
local RENEW = "select renew_ate_lease($1, $2::interval) as renewed"
local RECORDED = [[select id as ate_file_id from ate_files where device_id = $1 and file_path = $2
  union all select ate_file_id from ate_file_versions where device_id = $1 and file_path = $2]]

local SECONDS <const> = "%g seconds"
local DATABASE_TRIES = 5 -- of a transaction that another one stood in the way of

-- Names one start of a worker, or one session of it, never again: the queue tells the dead from the living by it.
local function identity()
  return ("%s-%d-%s"):format(utsname.uname().nodename, unistd.getpid(), crypto.hex(crypto.random(6)))
end

--- A new ledger.
-- @tparam table options conn, store, config; on_event(name, job, artifact or message); on_turn as of workflow.worker
-- @treturn table ledger: id, conn, counts, and `stored`, the items {job, artifact} that wait to be completed
function M.new(options)
  return setmetatable({
    id = identity(),
    conn = options.conn,
    store = options.store,
    config = options.config,
    on_event = options.on_event,
    on_turn = options.on_turn or function() end,
    stored = {},
    offer = offer.new(options.config.worker_lease),
    counts = { completed = 0, failed = 0, lost = 0 },
    renew_at = 0,
  }, Ledger)
end

--- Whether the session is over.
-- @treturn boolean
function Ledger:is_lost()
  local status = self.conn:status()
  return status == "lost" or status == "closed"
end

-- Runs statements as one transaction. One that another stood in the way of was rolled back whole, and is tried again.
function Ledger:ask(statements)
  local options = { timeout = self.config.database_timeout, share = true }
  for try = 1, DATABASE_TRIES do
    local results, message, code = prepared.pipeline(self.conn, statements, options)
    if results or not failure.is_conflict(code) or try == DATABASE_TRIES then
      return results, message, self:is_lost() and "connection" or code
    end
  end
end

--- Notes that all that is held was claimed just now.
function Ledger:lease_is_fresh()
  self.renew_at = clock.now() + self.config.worker_lease / 3
end

--- Keeps the jobs while builds or the store take long. That the connection is gone shows in the next exchange.
-- @tparam[opt] number extra seconds for what cannot be interrupted to renew again
function Ledger:keep_lease(extra)
  self.on_turn(extra)
  if (extra or clock.now() > self.renew_at) and not self:is_lost() then
    self:lease_is_fresh()
    self:ask { { RENEW, { self.id, SECONDS:format(self.config.worker_lease + (extra or 0)) } } }
  end
end

--- Records a failure; that the job is no longer ours is no news to anybody.
-- @tparam table job
-- @tparam string message
-- @tparam ?string code
-- @tparam[opt] table verdict of the jail: what it saw is recorded, too
-- @treturn[1] boolean true
-- @return[2] nil: the session is over
-- @treturn[2] string message
-- @treturn[2] string code
function Ledger:fail(job, message, code, verdict)
  local permanent = not failure.is_transient(code)
  log.error("job failed", { queue_id = job.queue_id, attempt = job.attempt, device = job.device_hash, code = code,
    permanent = permanent, reason = message })
  local text = failure.text(message, code)
  if verdict then
    local seen = { queue_id = job.queue_id, attempt = job.attempt, verdict = verdict.verdict, usage = verdict.usage }
    -- Not in one transaction: who waits to fail a job must not hold its row.
    self:ask { { REPORT, { assert(json.encode(json.array { seen })) } } }
  end
  local ok, problem, state = self:ask { { FAIL, { job.queue_id, text, job.attempt, permanent } } }
  self.counts.failed = self.counts.failed + 1
  self.on_event("failed", job, message, code)
  if not ok and self:is_lost() then
    return nil, problem, state
  elseif not ok then
    log.warn("failure not recorded", { queue_id = job.queue_id, attempt = job.attempt, reason = problem })
  end
  return true
end

-- ==== what became of a file ====

--- Removes an object that no row names, and what was left of its making.
-- @tparam table artifact
function Ledger:discard(artifact)
  generate.clean(artifact)
  local ok, message = self.store:delete { artifact.key }
  if not ok then
    log.warn("object not deleted", { key = artifact.key, reason = message })
  end
end

-- Gives up what was stored. What was offered may be named by a row: it is left to the store's sweep.
function Ledger:drop(item)
  if item.doubtful then
    log.warn("object left", { key = item.artifact.key, reason = "whether its job was completed is not known" })
  else
    self:discard(item.artifact)
  end
end

function Ledger:finish(item, ate_file_id)
  self.counts.completed = self.counts.completed + 1
  item.artifact.ate_file_id = ate_file_id
  self.on_event("completed", item.job, item.artifact)
end

-- The job went to another attempt, and no earlier offer of this one can come true any more. Whether one did is in the
-- rows; when they cannot be read, the object stays: one too many is found later, one too few never.
function Ledger:lose(item, reason)
  if item.doubtful then
    local rows, message = self.conn:query(RECORDED, { item.job.device_id, item.artifact.key })
    if rows and rows[1] then
      return self:finish(item, rows[1].ate_file_id)
    elseif not rows then
      return log.warn("object left", { key = item.artifact.key, reason = message })
    end
  end
  self.counts.lost = self.counts.lost + 1
  log.warn("job lost", { queue_id = item.job.queue_id, attempt = item.job.attempt, device = item.job.device_hash,
    reason = reason })
  self:discard(item.artifact)
  self.on_event("lost", item.job, reason)
end

-- The answers come in the order of the members.
function Ledger:conclude(items, rows)
  for i, item in ipairs(items) do
    local row = rows[i]
    if row.error == json.null then
      self:finish(item, row.ate_file_id)
    elseif not self.offer:is_busy(item, row.error) then
      self:lose(item, row.error)
    end
  end
end

-- ==== completing and claiming ====

-- Offers stored files, and runs `claim` in the same transaction.
function Ledger:complete(items, claim)
  local statements = {}
  if #items > 0 then
    statements[1] = self.offer:statement(items)
  end
  statements[#statements + 1] = claim
  if #statements == 0 then
    return {}
  end
  local results, message, code = self:ask(statements)
  if results then
    if #items > 0 then
      self:conclude(items, results[1])
    end
    return claim and results[#results] or {}
  end
  for _, item in ipairs(items) do
    item.doubtful = item.doubtful or self:is_lost()
  end
  return nil, message, code
end

-- The database refuses a batch as a whole: whichever of it is at fault must not take the others along.
function Ledger:complete_singly()
  while self.stored[1] do
    local item = self.stored[1]
    local ok, message, code = self:complete { item }
    if not ok and failure.is_transient(code) then
      return nil, message, code
    end
    table.remove(self.stored, 1)
    if not ok then
      self:drop(item)
      ok, message, code = self:fail(item.job, message, code)
      if not ok then
        return nil, message, code
      end
    end
  end
  return true
end

--- Completes what is stored and claims up to `want` more, in one transaction.
-- @tparam integer want 0 to claim nothing
-- @tparam[opt] string only the queue id of the one job to claim
-- @treturn[1] table the claimed jobs
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Ledger:exchange(want, only)
  self.on_turn()
  want = self.offer:is_full() and 0 or want
  if self.offer:add_to(self.stored) then
    self:ask { { RENEW, { self.id, SECONDS:format(self.config.worker_lease) } } }
  end
  local claim = want > 0 and { CLAIM, { self.id, want, SECONDS:format(self.config.worker_lease), only or json.null },
    name = "ate_claim" } or nil
  local jobs, message, code = self:complete(self.stored, claim)
  if not jobs and #self.stored > 0 and not failure.is_transient(code) then
    local ok
    ok, message, code = self:complete_singly()
    if ok then
      jobs, message, code = self:complete({}, claim)
    end
  end
  self.stored = jobs and {} or self.stored
  return jobs, message, code
end

--- Goes on in a new session, under a new name: completes what the old one has stored, and hands back what it has not
-- built, at no cost.
-- @param conn
-- @tparam string former the old name
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Ledger:resume(conn, former)
  -- Under the name of a try that failed nothing was claimed: the next one has the same jobs to hand back.
  self.former = self.former or former
  self.conn, self.id = conn, identity()
  self.offer:add_to(self.stored, true)
  local ok, message, code = self:exchange(0)
  if ok then
    ok, message, code = self:release(self.former)
  end
  self.former = not ok and self.former or nil
  return ok and true, message, code
end

--- Hands back what is held under a name, at no cost to the jobs' retries.
-- @tparam[opt] string id this worker's, and its former one's where a try to hand back failed, unless given
-- @treturn[1] integer number handed back
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Ledger:release(id)
  local former = not id and self.former or json.null -- nothing is held under no name
  local results, message, code = self:ask { { RELEASE, { id or self.id } }, { RELEASE, { former } } }
  self.former = (id or not results) and self.former or nil
  return results and results[1][1].released + results[2][1].released, message, code
end

--- Gives up all that is stored.
function Ledger:abandon()
  self.offer:add_to(self.stored, true)
  for _, item in ipairs(self.stored) do
    self:drop(item)
  end
  self.stored = {}
end

return M

