--- Runs scripts in jails: one warm child for each kit, kept as long as all goes well.
--
-- Owns the children: which kit each one has loaded, when it is replaced, and the limits from the configuration. A child
-- serves runs of one kit only, so that a script which damaged it could reach no other kit's; any verdict but "ok" ends
-- it. One more child is always started ahead: a replacement is ready when it is needed.
-- @module jail
-- @usage local verdict = jail.pool(config):check(id, { ["a.lua"] = text }, { source = main }, "autotouch")
local log = require "log"
local native = require "atelier.jail"
local runtime = require "runtime"

local M = {}

local RUNS <const> = 1000 -- of one child: what a long life would add up to, it never does

local Pool = {}
Pool.__index = Pool

--- What a configuration says about limits.
-- @tparam[opt] table config see `config`
-- @treturn table for `atelier.jail`'s new
function M.limits(config)
  config = config or {}
  local without
  for wall in (config.jail_without or ""):gmatch "[^%s,]+" do
    without = without or {}
    without[#without + 1] = wall
  end
  return {
    memory = config.jail_memory, instructions = config.jail_instructions, time = config.jail_time,
    output = config.jail_output, without = without,
  }
end

--- Says loudly that walls are left out, when they are.
-- @tparam table config
function M.warn(config)
  if config.jail_without and config.jail_without ~= "" then
    log.warn("the jail has walls left out: untrusted scripts are held by the others alone",
      { without = config.jail_without })
  end
end

--- A pool of children. Close it, or leave it to the collector.
-- @tparam[opt] table config the keys `jail_*` and `runtimes_dir` of `config`; defaults where they are missing
-- @treturn table pool
function M.pool(config)
  config = config or {}
  local pool = setmetatable({
    limits = M.limits(config), most = config.jail_children or 8, fresh = config.jail_fresh or false,
    folder = config.runtimes_dir, children = {}, count = 0, tick = 0,
  }, Pool)
  M.warn(config)
  return pool
end

-- A child that has loaded nothing yet: the one that was started ahead, if it still lives. Starts the next.
local function take_spare(self)
  local child, message, code = self.spare, nil, nil
  self.spare = nil
  if not child or not child:alive() then
    child, message, code = native.new(self.limits)
  end
  if child then
    self.spare = native.new(self.limits)
  end
  return child, message, code
end

local function drop(self, key)
  local entry = self.children[key]
  if entry then
    entry.child:close()
    self.children[key], self.count = nil, self.count - 1
  end
end

local function drop_oldest(self)
  local oldest
  for key, entry in pairs(self.children) do
    if not oldest or entry.used < self.children[oldest].used then
      oldest = key
    end
  end
  drop(self, oldest)
end

-- Returns an entry, or a verdict about the kit itself, or nil, message, code.
local function start(self, key, modules, runtime_name)
  local kit = { modules = modules }
  if runtime_name then
    local found, message, code = runtime.load(runtime_name, { folder = self.folder })
    if not found then
      return nil, nil, message, code
    end
    kit.name, kit.prelude = found.name, found.prelude
  end
  local child, message, code = take_spare(self)
  if not child then
    return nil, nil, message, code
  end
  local verdict
  verdict, message, code = child:load(kit)
  if not verdict then
    return nil, nil, message, code
  elseif verdict.verdict == "error" then
    message = ("runtime: %s: line %s: %s"):format(runtime_name, verdict.line or "?", verdict.message)
    return nil, nil, message, "runtime"
  elseif verdict.verdict ~= "ok" then
    return nil, verdict
  end
  if self.count >= self.most then
    drop_oldest(self)
  end
  local entry = { child = child, runs = 0, used = 0 }
  self.children[key], self.count = entry, self.count + 1
  return entry
end

-- Idle children may be ended by others (the kernel, an operator): that is no verdict about the next script. Nor is a
-- run that nobody finished, because what was done meanwhile raised.
local function held(self, key)
  local entry = self.children[key]
  if entry and (entry.runs >= RUNS or entry.running or not entry.child:alive()) then
    drop(self, key)
    return nil
  end
  return entry
end

--- Begins to run a job's script beside the scripts of its kit, and returns at once.
-- @tparam string kit_id changes whenever `modules` do
-- @tparam table modules texts by file name, the same for all jobs of the kit
-- @tparam table job `source`; `name` (default "main.lua"); `modules`: its own texts by file name
-- @tparam[opt] string runtime_name
-- @treturn table for `finish`, once
-- @function pool:begin
function Pool:begin(kit_id, modules, job, runtime_name)
  local key = kit_id .. "\0" .. (runtime_name or "")
  local entry = held(self, key)
  if not entry then
    local verdict, message, code
    entry, verdict, message, code = start(self, key, modules, runtime_name)
    if not entry then
      return { verdict = verdict, message = message, code = code }
    end
  end
  self.tick = self.tick + 1
  entry.used, entry.runs = self.tick, entry.runs + 1
  local running, message, code = entry.child:begin(job)
  if running == true then
    entry.running = true
    return { key = key, entry = entry }
  end
  drop(self, key)
  return { verdict = running, message = message, code = code }
end

--- Waits for what `begin` began.
-- @tparam table run what `begin` gave
-- @treturn[1] table verdict, see `atelier.jail`
-- @return[2] nil
-- @treturn[2] string message: the jail itself failed, or the runtime
-- @treturn[2] string code "runtime", "start", "no_wall" or an errno's symbol
-- @function pool:finish
function Pool:finish(run)
  if not run.entry then
    return run.verdict, run.message, run.code
  end
  run.entry.running = false
  local verdict, message, code = run.entry.child:finish()
  if self.fresh or not verdict or verdict.verdict ~= "ok" then
    drop(self, run.key)
  end
  return verdict, message, code
end

--- Runs a job's script and waits for it.
-- @param ... as of `begin`
-- @return as of `finish`
-- @function pool:check
function Pool:check(...)
  return self:finish(self:begin(...))
end

--- Ends all children.
-- @function pool:close
function Pool:close()
  for key in pairs(self.children) do
    drop(self, key)
  end
  if self.spare then
    self.spare:close()
    self.spare = nil
  end
end

Pool.__close = Pool.close

return M
