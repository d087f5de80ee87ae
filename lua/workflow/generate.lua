--- Builds one bundle: a claimed job in, a sealed file on its way to the store out. Knows no queue and no SQL.
-- @module workflow.generate
local check = require "workflow.check"
local clock = require "clock"
local keyring = require "ate.keyring"
local kit = require "template.kit"
local licence = require "ate.licence"
local log = require "log"
local seals = require "workflow.seal"
local staging = require "workflow.staging"
local stat = require "posix.sys.stat"
local stock = require "workflow.stock"
local storage = require "storage"
local values = require "workflow.values"

local M = {}
local Builder = {}
Builder.__index = Builder

-- Tells one content of the key ring's file from another: it is replaced, never changed. It only grows, and that counts
-- where two rotations within a second give the third file the number of the first.
local function mark_of(path)
  local info = stat.stat(path)
  return info and ("%d %d %d"):format(info.st_ino, info.st_mtime, info.st_size)
end

--- A new builder: the templates and kits that it has prepared, and what every bundle needs.
-- @tparam table options config (see config.lua), ring (key ring); optional: store (see storage), on_large(bytes),
--   called before a bundle is made that takes its time; on_stage(job, stage), called before a stage that may last;
--   on_wait() as of `storage`: jobs in hand must not be taken for a dead worker's while a store says nothing
-- @treturn table builder
function M.new(options)
  local self = setmetatable({
    config = options.config,
    ring = options.ring,
    store = options.store,
    on_large = options.on_large or function() end,
    on_stage = options.on_stage or function() end,
    checker = check.new(options.config),
    stock = stock.new(options.config, options.on_wait),
  }, Builder)
  if options.store then -- a dry run stores nothing
    options.store.on_wait = options.on_wait
  end
  self:forget()
  return self
end

-- What was read of the templates is no longer true.
function Builder:forget()
  self.stock:forget()
  self.kits = kit.cache(self.config.worker_kits)
  self.made = {} -- template and tools that a kit was made for: the next one is there at once
end

--- Takes over keys that another process has rotated: files made from now on must have them. The first call reads the
-- file in any case: the ring that `new` got may be older than what the file is now.
function Builder:refresh()
  local mark = mark_of(self.config.keyring)
  if mark == self.ring_mark then
    return
  end
  local ring, message = keyring.load(self.config.keyring)
  if ring then
    self.ring, self.ring_mark = ring, mark
  else
    log.error("key ring not read again", { reason = message })
  end
end

-- The kit of a job's template and plan.
function Builder:kit(job)
  local id = stock.name(job) .. " " .. table.concat(job.plan_tools, " ")
  if not self.made[id] then
    self.on_stage(job, "rendering")
  end
  local loaded, message, code = self.stock:get(job)
  if not loaded then
    return nil, message, code
  end
  local prepared
  prepared, message, code = self.kits:get(loaded, job.plan_tools)
  self.made[id] = prepared ~= nil
  return prepared, message, code
end

--- Prepares what the jobs of a template and plan will need.
-- @tparam table job the columns of the claim that name them
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Builder:warm(job)
  local prepared, message, code = self:kit(job)
  if not prepared then
    return nil, message, code
  end
  return self.checker:warm(prepared)
end

-- Perhaps the files of a template are others by now: the next job looks again.
function Builder:doubt(code)
  if code == "template" or code == "template_version" then
    self:forget()
  end
end

-- One at a time is sealed aside: it takes two processors.
local function is_growing(growing)
  return growing and growing.state() == nil
end

function Builder:seal_large(job, prepared, vars, signer)
  self.on_large(seals.large_bytes(prepared))
  local root = self.store:staging()
  if not self.swept then
    staging.sweep(root)
    self.swept = true
  end
  local folder, problem, why = staging.make(root, vars.artifact_id)
  if not folder then
    return nil, problem, why
  end
  local sealed, message, code
  if self.store.kind ~= "local" and not is_growing(self.last_growing) and seals.can_grow(job, prepared) then
    sealed, message, code = seals.growing(job, prepared, vars, signer, folder, function(reason)
      self:doubt(reason)
    end)
    self.last_growing = sealed and sealed.growing
  else
    sealed, message, code = seals.in_files(job, prepared, vars, signer, folder, self.store.kind ~= "local")
  end
  if sealed then
    sealed.folder = folder
    return sealed
  end
  staging.remove(folder)
  self:doubt(code)
  return nil, message, code
end

--- Removes what the making of an artifact left, once the store has it or has refused it.
-- @tparam table artifact
function M.clean(artifact)
  if artifact.growing then
    artifact.growing.stop()
  end
  if artifact.folder then
    staging.remove(artifact.folder)
  end
end

-- The values of a job, and what the secrets of the key ring make of them.
function Builder:prepare(job)
  local prepared, message, code = self:kit(job)
  if not prepared then
    return nil, message, code
  end
  local master, master_id = self.ring:master()
  local signer, signer_id = self.ring:signer()
  local vars
  vars, message, code = values.variables(job, licence.key(master, job.device_id))
  if not vars then
    return nil, message, code
  end
  local key
  key, message, code = storage.key(job.device_hash, job.template_name, vars.artifact_id)
  if not key then
    return nil, message, code
  end
  return { job = job, prepared = prepared, vars = vars, key = key, signer = signer, signer_id = signer_id,
    master_id = master_id, began = clock.now() }
end

local function seal(self, build)
  if build.prepared.streamed then
    self.on_stage(build.job, "sealing")
    return self:seal_large(build.job, build.prepared, build.vars, build.signer)
  end
  return seals.in_memory(build.job, build.prepared, build.vars, build.signer)
end

--- Begins to build the bundle of a job: packs and seals it, while the jail runs its scripts. Nothing is stored yet.
-- @tparam table job a row of `claim_ate_generations`
-- @treturn[1] table build for `finish` or `cancel`, once; its `job`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @treturn[2] table|nil the jail's verdict when it is that which the bundle did not pass
function Builder:begin(job)
  local build, message, code = self:prepare(job)
  if not build then
    return nil, message, code
  end
  local run, problem, why = self.checker:begin(build.prepared, build.vars)
  if run == nil then
    return nil, problem, why
  end
  build.sealed, message, code = seal(self, build)
  build.run = run
  if build.sealed then
    return build
  end
  -- What the scripts did tells more than what packing them said.
  local verdict, seen
  verdict, problem, why, seen = self.checker:finish(run)
  if verdict == nil then
    return nil, problem, why, seen
  end
  return nil, message, code
end

--- Removes what a build that is not finished has left.
-- @tparam table build
function Builder.cancel(_, build)
  if build.run then
    build.run:cancel()
  end
  M.clean(build.sealed)
end

--- Waits for the jail's verdict and begins to store the file.
-- @tparam table build what `begin` gave
-- @treturn[1] table artifact: key, ticket, folder (where it was made, if not in memory), size, checksum,
--   encryption_key_hash, variables, verdict and usage of the jail, timing (ms by stage)
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @treturn[2] table|nil the jail's verdict when it is that which the bundle did not pass
function Builder:finish(build)
  local sealed, job = build.sealed, build.job
  if self.checker:is_slow(build.prepared) then
    self.on_stage(job, "checking")
  end
  local verdict, message, code, seen = self.checker:finish(build.run)
  if verdict == nil then
    M.clean(sealed)
    return nil, message, code, seen
  end
  local built = clock.now()
  local ticket
  ticket, message, code = self.store:put(build.key, sealed.parts or sealed.growing or sealed.path,
    { sha256 = sealed.checksum })
  if not ticket then
    M.clean(sealed)
    return nil, message, code
  end
  return setmetatable({
    key = build.key,
    ticket = ticket,
    variables = values.record(job, build.vars, build.master_id, build.signer_id),
    verdict = verdict and verdict.verdict,
    usage = verdict and verdict.usage,
    timing = { build = (built - build.began) * 1000, stored_from = built },
  }, { __index = sealed }) -- of one that grows, the hashes are known when it is stored
end

return M
