--- Jobs that a store will not have while it is there for others: a key that something before it refuses, or a template
-- that cannot be fetched. Such a job alone waits, a little longer each time, and pays nothing; the others run.
--
-- An outage looks the same at first. It is one when the store does not even answer a look; or when several jobs were
-- refused and none was taken since. Only what was taken meanwhile proves that a job is alone with its trouble: without
-- such a proof the wait stays short, so that after an outage all goes on at once.
-- @module workflow.suspects
local clock = require "clock"
local failure = require "workflow.failure"
local json = require "atelier.json"
local log = require "log"
local stock = require "workflow.stock"

local M = {}
local Suspects = {}
Suspects.__index = Suspects

local UNPROVEN = 1                        -- seconds that a job waits when nothing was taken since
local FIRST_DELAY, LONGEST_DELAY = 2, 60  -- seconds that it waits when others were
local LONGEST_LOOK, LOOK_SECONDS = 10, 1  -- seconds that other puts are waited for; where one has proved it, so long
local MOST_KNOWN = 1000                   -- subjects; a job that comes back after this many others begins anew
local POSTPONE = [[select postpone_ate_generations($1, array(select jsonb_array_elements_text($2)::uuid), $3::interval,
  $4)]]

--- None yet.
-- @tparam table options queue (see workflow.ledger), breaker
-- @treturn table suspects
function M.new(options)
  return setmetatable({ queue = options.queue, breaker = options.breaker, list = {}, waiting = {}, known = {},
    count = 0, taken_from = 0, alone = 0 }, Suspects)
end

--- Notes a job that a store refused, and not for what is wrong with it.
-- @tparam table job
-- @tparam string message
-- @tparam string code
-- @tparam[opt] number since when its put began; none: it is the job's template that cannot be had
function Suspects:note(job, message, code, since)
  table.insert(self.list, { job = job, message = message, code = code, is_template = not since,
    since = since or clock.now(), subject = since and job.queue_id or stock.name(job) })
end

--- Notes that the store took a job's file.
-- @tparam table job
-- @tparam number since when its put began
function Suspects:clear(job, since)
  self.taken_from, self.alone = math.max(self.taken_from, since), 0
  self.known[job.queue_id], self.known[stock.name(job)] = nil, nil
end

--- Whether a job's template could not be had a moment ago: it is not asked for again for each job, but waits, too.
-- @tparam table job
-- @treturn boolean
function Suspects:holds(job)
  local known = self.known[stock.name(job)]
  if not known or clock.now() >= known.again_at then
    return false
  end
  table.insert(self.waiting, { job = job, message = known.message, code = known.code,
    delay = math.ceil(known.again_at - clock.now()) })
  return true
end

-- What is remembered of a subject.
local function known_of(self, suspect)
  local known = self.known[suspect.subject]
  if not known then
    if self.count >= MOST_KNOWN then
      self.known, self.count = {}, 0
    end
    known = { delay = 0, since = suspect.since }
    self.known[suspect.subject], self.count = known, self.count + 1
  end
  return known
end

-- How long a subject waits now; asked once, however many jobs want the same template.
local function delay_of(self, suspect)
  local known = known_of(self, suspect)
  if known.judged ~= self.list then
    local longer = math.min(math.max(known.delay * 2, FIRST_DELAY), LONGEST_DELAY)
    known.judged, known.delay = self.list, self.taken_from > known.since and longer or math.max(known.delay, UNPROVEN)
    known.since, known.again_at = suspect.since, clock.now() + known.delay
    known.message, known.code = suspect.message, suspect.code
  end
  return known.delay
end

-- Puts jobs off, all that wait as long for the same reason in one statement.
local function postpone(self, suspects)
  local groups, order = {}, {}
  for _, suspect in ipairs(suspects) do
    local name = suspect.delay .. " " .. suspect.message
    local group = groups[name]
    if not group then
      group = { ids = {}, delay = suspect.delay, text = failure.text(suspect.message, suspect.code) }
      groups[name], order[#order + 1] = group, group
    end
    table.insert(group.ids, suspect.job.queue_id)
  end
  for _, group in ipairs(order) do
    log.warn("jobs put off", { jobs = #group.ids, first = group.ids[1], seconds = group.delay, reason = group.text })
    local ok, message, code = self.queue:ask { { POSTPONE, { self.queue.id,
      assert(json.encode(json.array(group.ids))), ("%g seconds"):format(group.delay), group.text } } }
    if not ok then
      return nil, message, code
    end
  end
  return true
end

-- Whether the store has taken what was sent after one of those that were noted.
local function is_proven(self)
  for _, suspect in ipairs(self.list) do
    if self.taken_from > suspect.since then
      return true
    end
  end
  return false
end

-- Judges those that were noted: puts them off, unless all is the store's. Gives the outage that it is, if it is one.
local function judge(self)
  local first, puts, proven = self.list[1], 0, is_proven(self)
  for _, suspect in ipairs(self.list) do
    puts = puts + (suspect.is_template and 0 or 1)
  end
  self.problem = { message = first.message, code = first.code }
  if not proven and not self.breaker:sees() then
    return true, self.problem
  end
  for _, suspect in ipairs(self.list) do
    suspect.delay = delay_of(self, suspect)
  end
  self.alone = not proven and self.alone + puts or 0
  local ok, message, code = postpone(self, self.list)
  if not ok then
    return nil, message, code
  end
  return true, self.alone > 1 and self.problem or nil
end

--- Where the store refused jobs: is it them, or the store? `outage` is {message, code} where it is the store; then they
-- are left as they are, for the worker to hand back.
-- @tparam table outbox see workflow.outbox: what is under way is waited for, but not for one that takes its time
-- @treturn[1] boolean true
-- @return[2] nil: the session with the database is over
-- @treturn[2] string message
-- @treturn[2] string code
function Suspects:weigh(outbox)
  if self.outage or not self.list[1] then
    return true
  end
  local from = clock.now()
  local ok, message, code = outbox:settle(LONGEST_LOOK, function()
    return clock.now() - from >= LOOK_SECONDS and is_proven(self)
  end)
  if ok then
    ok, message, code = judge(self)
    self.outage = ok and message
    self.list = {}
  end
  return ok, message, code
end

--- Puts off the jobs whose template is not to be had yet.
-- @treturn[1] boolean true
-- @return[2] nil: the session with the database is over
-- @treturn[2] string message
-- @treturn[2] string code
function Suspects:flush()
  local waiting = self.waiting
  self.waiting = {}
  if waiting[1] then
    self.problem = { message = waiting[1].message, code = waiting[1].code }
  end
  return postpone(self, waiting)
end

--- Forgets those that were noted, and the outage: they went back in another way.
function Suspects:forget()
  self.list, self.waiting, self.outage = {}, {}, nil
end

return M
