--- What is told of jobs while they run and when they have ended: to live views, to the metrics, to the log.
--
-- A stage is told when it is expected to last, or does: a small job has ended before anybody could read of it, and a
-- busy worker has better things to ask of the database. Must not decide anything about a job.
-- @module workflow.progress
local clock = require "clock"
local json = require "atelier.json"
local log = require "log"
local metrics = require "metrics"

local M = {}
local Progress = {}
Progress.__index = Progress

-- Lost with a crash of the server, together with the run that it tells of: no need to wait for the disk.
local UNSAFE = "select set_config('synchronous_commit', 'off', true)"
local REPORT = "select report_ate_generations($1)"
local FEW = 2             -- jobs in hand that are told of one by one
local TELL_SECONDS = 1    -- at least between two reports of a busy worker
local SUMMARY_SECONDS = 10

--- A new one. `queue` (see workflow.ledger) is to be set before it tells of stages.
-- @tparam function on_event (name, job, artifact or message): whom else to tell
-- @treturn table progress
function M.new(on_event)
  local self = setmetatable({ told_at = -math.huge, few = true, ready = 0, summed_at = clock.now() }, Progress)
  self.event = function(name, job, what, code)
    self:note(name, job, what, code)
    on_event(name, job, what)
  end
  return self
end

--- Notes that these jobs were claimed now.
-- @tparam table jobs
function Progress:claimed(jobs)
  local now = clock.now()
  self.few = #jobs <= FEW
  for _, job in ipairs(jobs) do
    job.claimed_at = now
  end
end

--- Tells live views what a job is at, unless there is no time for that. A failure shows in what is asked next.
-- @tparam table job
-- @tparam string stage "rendering", "checking", "sealing" or "storing"
function Progress:tell(job, stage)
  local now = clock.now()
  if job.stage ~= stage and (self.few or now - self.told_at >= TELL_SECONDS) then
    job.stage, self.told_at = stage, now
    local said = { queue_id = job.queue_id, attempt = job.attempt, stage = stage }
    self.queue:ask { { UNSAFE }, { REPORT, { assert(json.encode(json.array { said })) } } }
  end
end

-- A line for each file where there are few, and for many now and then their number.
function Progress:log_ready(job, artifact)
  local now = clock.now()
  if self.few or log.is_on "debug" then
    log[self.few and "info" or "debug"]("file ready", { queue_id = job.queue_id, attempt = job.attempt,
      device = job.device_hash, template = job.template_name, ate_file_id = artifact.ate_file_id,
      milliseconds = job.claimed_at and ((now - job.claimed_at) * 1000 + 0.5) // 1 | 0 })
    return
  end
  self.ready = self.ready + 1
  if now - self.summed_at >= SUMMARY_SECONDS then
    log.info("files ready", { count = self.ready, seconds = (now - self.summed_at) // 1 | 0 })
    self.ready, self.summed_at = 0, now
  end
end

function Progress:note(name, job, what, code)
  metrics.worker_event(name, job, what, code)
  if name == "completed" then
    if job.claimed_at then
      metrics.job_stage("total", clock.now() - job.claimed_at)
    end
    if self.is_serving then
      self:log_ready(job, what)
    end
  end
end

return M
