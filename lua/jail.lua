--- Runs scripts in jails: a warm child for each kit, and for each run that is under way, kept as long as all goes well.
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
    folder = config.runtimes_dir, children = {}, tick = 0,
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

local function drop(self, entry)
  for i, candidate in ipairs(self.children) do
    if candidate == entry then
      table.remove(self.children, i)
    end
  end
  entry.child:close()
end

local function oldest_resting(self)
  local oldest
  for _, entry in ipairs(self.children) do
    if not entry.running and (not oldest or entry.used < oldest.used) then
      oldest = entry
    end
  end
  return oldest
end

-- Of those that rest, the ones that were used longest ago go. Where all run, there are too many for a while.
local function shrink(self, most)
  while #self.children > most do
    local entry = oldest_resting(self)
    if not entry then
      return
    end
    drop(self, entry)
  end
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
  shrink(self, self.most - 1)
  local entry = { key = key, child = child, runs = 0, used = 0 }
  table.insert(self.children, entry)
  return entry
end

-- A child of the kit that rests. One may have been ended by others (the kernel, an operator): that is no verdict about
-- the next script.
local function resting(self, key)
  for i = #self.children, 1, -1 do
    local entry = self.children[i]
    if entry.key == key and not entry.running then
      if entry.runs < RUNS and entry.child:alive() then
        return entry
      end
      drop(self, entry)
    end
  end
end

local Run = {}
Run.__index = Run

function Run:cancel()
  if self.entry and self.entry.running == self.number then
    drop(self.pool, self.entry)
  end
end

Run.__gc = Run.cancel -- nobody finished it, because what was done meanwhile raised

--- Begins to run a job's script beside the scripts of its kit, and returns at once. Several runs of one kit may be
-- under way: each has a child of its own.
-- @tparam string kit_id changes whenever `modules` do
-- @tparam table modules texts by file name, the same for all jobs of the kit
-- @tparam table job `source`; `name` (default "main.lua"); `modules`: its own texts by file name
-- @tparam[opt] string runtime_name
-- @treturn table run, for `finish`; or `run:cancel()` ends it when its verdict is not wanted any more
-- @function pool:begin
function Pool:begin(kit_id, modules, job, runtime_name)
  local key = kit_id .. "\0" .. (runtime_name or "")
  local entry = resting(self, key)
  if not entry then
    local verdict, message, code
    entry, verdict, message, code = start(self, key, modules, runtime_name)
    if not entry then
      return setmetatable({ verdict = verdict, message = message, code = code }, Run)
    end
  end
  self.tick = self.tick + 1
  entry.used, entry.runs = self.tick, entry.runs + 1
  local running, message, code = entry.child:begin(job)
  if running == true then
    entry.running = self.tick -- and not the run itself, which the collector must find
    return setmetatable({ pool = self, entry = entry, number = self.tick }, Run)
  end
  drop(self, entry)
  return setmetatable({ verdict = running, message = message, code = code }, Run)
end

--- Waits for what `begin` began.
-- @tparam table run what `begin` gave
-- @treturn[1] table verdict, see `atelier.jail`
-- @return[2] nil
-- @treturn[2] string message: the jail itself failed, or the runtime
-- @treturn[2] string code "runtime", "start", "no_wall", "killed" (by somebody else) or an errno's symbol
-- @function pool:finish
function Pool:finish(run)
  if not run.entry then
    return run.verdict, run.message, run.code
  end
  local verdict, message, code = run.entry.child:finish()
  run.entry.running = nil
  if self.fresh or not verdict or verdict.verdict ~= "ok" then
    drop(self, run.entry)
  end
  shrink(self, self.most)
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
  while self.children[1] do
    drop(self, self.children[1])
  end
  if self.spare then
    self.spare:close()
    self.spare = nil
  end
end

Pool.__close = Pool.close

return M
