--- Runs a bundle's scripts in the jail before they are packaged. Knows neither queue nor store.
-- @module workflow.check
local jail = require "jail"

local M = {}
local Checker = {}
Checker.__index = Checker

local MAIN = "main.lua"
local SLOW_SECONDS = 0.05

--- A new checker, with children of its own.
-- @tparam table config see config.lua; without `check_bundles` every bundle passes unseen
-- @treturn table checker
function M.new(config)
  return setmetatable({
    pool = config.check_bundles and jail.pool(config) or nil,
    kits = setmetatable({}, { __mode = "k" }),
    count = 0,
  }, Checker)
end

-- The scripts of a kit: those that are the same in every bundle are given to the jail once.
local function describe(self, prepared)
  local known = self.kits[prepared]
  if not known then
    self.count = self.count + 1
    known = { id = ("kit %d"):format(self.count), shared = {}, personal = {}, seconds = math.huge }
    for _, entry in ipairs(prepared.entries) do
      if entry.name:match "%.lua$" and entry.name ~= MAIN and entry.text then
        known.shared[entry.name] = entry.text
      elseif entry.name == MAIN then
        known.main = entry
      elseif entry.name:match "%.lua$" then
        known.personal[#known.personal + 1] = entry
      end
    end
    self.kits[prepared] = known
  end
  return known
end

local function personal_texts(prepared, known, vars)
  local texts = {}
  for _, entry in ipairs(known.personal) do
    local text, message, code = prepared:text(entry, vars)
    if not text then
      return nil, message, code
    end
    texts[entry.name] = text
  end
  return texts
end

-- What a person reads: which script, which line, why, and which limit it was.
local function reason(verdict)
  local place = verdict.script and ("%s:%s: "):format(verdict.script, verdict.line or "?") or ""
  return ("the bundle does not run: %s%s (verdict %s)"):format(place, verdict.message, verdict.verdict)
end

--- Whether a verdict on a bundle of this kit may take long: the last one did, or there was none.
-- @tparam table prepared kit
-- @treturn boolean
function Checker:is_slow(prepared)
  local known = self.pool and describe(self, prepared)
  return known ~= nil and known.main ~= nil and known.seconds > SLOW_SECONDS
end

--- Prepares a child for the bundles of a kit.
-- @tparam table prepared kit
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Checker:warm(prepared)
  local known = self.pool and describe(self, prepared)
  if not known or not known.main then
    return true
  end
  local run = self.pool:begin(known.id, known.shared, { source = "", name = MAIN }, prepared.template.runtime)
  local verdict, message, code = self.pool:finish(run)
  if verdict and verdict.verdict == "ok" then
    known.seconds = 0
    return true
  end
  return nil, verdict and reason(verdict) or message, code
end

--- Begins to run the bundle that a kit makes of these values, and returns at once.
-- @tparam table prepared kit, see template.kit
-- @tparam table vars values by name
-- @treturn[1] table run, for `finish`; or `run:cancel()` ends it; or false where nothing is checked
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string code of template
function Checker:begin(prepared, vars)
  local known = self.pool and describe(self, prepared)
  if not known or not known.main then
    return false
  end
  local source, message, code = prepared:text(known.main, vars)
  if not source then
    return nil, message, code
  end
  local modules
  modules, message, code = personal_texts(prepared, known, vars)
  if not modules then
    return nil, message, code
  end
  local run = self.pool:begin(known.id, known.shared, { source = source, name = MAIN, modules = modules },
    prepared.template.runtime)
  run.known = known
  return run
end

--- Waits for what `begin` began, for the jail's time limit at the most.
-- @tparam table|boolean run what `begin` gave
-- @treturn[1] table verdict "ok", see atelier.jail; or false where nothing is checked
-- @return[2] nil: the bundle must not be stored
-- @treturn[2] string message
-- @treturn[2] string code: "jail_" and the verdict, which no other attempt changes; or a code of jail
-- @treturn[2] table|nil the verdict
function Checker:finish(run)
  if not run then
    return false
  end
  local verdict, message, code = self.pool:finish(run)
  if not verdict then
    return nil, message, code
  end
  run.known.seconds = (verdict.usage and verdict.usage.time_ms or 0) / 1000
  if verdict.verdict ~= "ok" then
    return nil, reason(verdict), "jail_" .. verdict.verdict, verdict
  end
  return verdict
end

return M
