--- `atelier template check`: does every plan's bundle of a template render, load, run and stay inside its limits? Tells
-- all that is wrong, what runs call and what they cost. Needs no database.
-- Owns the order of the checks and the report; the checks are in `survey`, `rehearsal` and `plan_check`.
-- @module template.check

local clock = require "clock"
local fault = require "template.fault"
local json = require "atelier.json"
local outline = require "template.outline"
local plan_check = require "template.plan_check"
local plans = require "plans"
local rehearsal = require "template.rehearsal"
local sample = require "template.sample"
local survey = require "template.survey"
local tryout = require "template.tryout"

local M = {}

--- Bytes of all files together that are opened without being told to: what `atelier.zip` takes by itself.
M.BUNDLE_BYTES = 1 << 30

-- What the rules find, at the entry of the manifest that it is about.
local function rule_faults(self)
  local by_name, places = {}, outline.read(self.text)
  for _, plan in ipairs(self.plans) do by_name[plan.name] = plan.tools end
  for _, message in ipairs(plans.problems(self.template.file_structure, by_name)) do
    local plan, rest = message:match("^plan ([^:]+): (.*)$")
    local found = { file = "template.json", message = rest or message }
    for i, entry in ipairs(self.template.file_structure) do
      local at = places.values[("file_structure[%d]"):format(i)]
      if found.message:sub(1, #entry.file + 2) == entry.file .. ": " and at then fault.at(found, self.text, at) end
    end
    self.faults:add({ found }, plan)
  end
end

-- Variables that a template asks for and no worker gives.
local function variable_faults(self)
  local places = outline.read(self.text)
  for i, name in ipairs(self.template.required_variables) do
    if not sample.NAMES[name] and (self.given or {})[name] == nil then
      local found = { file = "template.json", message = ("required_variables[%d]: no worker has a value for %s")
        :format(i, name), hint = "values of your own come in `params`: {{params." .. name .. "}}" }
      local place = places.values[("required_variables[%d]"):format(i)]
      self.faults:add { fault.at(found, self.text, place or 1, #name + 2) }
    end
  end
end

-- One row for each script, its figures the highest of all plans.
local function merge_scripts(outcomes)
  local rows, list = {}, json.array {}
  for _, outcome in ipairs(outcomes) do
    for name, row in next, outcome.scripts do
      local known = rows[name]
      if not known then
        known = { script = name, runs = 0, plans = json.array {} }
        rows[name], list[#list + 1] = known, known
      end
      table.insert(known.plans, outcome.plan)
      for key, value in next, row do
        if key == "runs" then
          known.runs = known.runs + value
        elseif type(value) == "number" then
          known[key] = math.max(known[key] or 0, value)
        end
      end
    end
  end
  table.sort(list, function(a, b)
    if (a.script == tryout.MAIN) ~= (b.script == tryout.MAIN) then return a.script == tryout.MAIN end
    return a.script < b.script
  end)
  return list
end

local function merge_calls(outcomes)
  local calls = {}
  for _, outcome in ipairs(outcomes) do
    for name, count in next, outcome.calls do calls[name] = math.max(calls[name] or 0, count) end
  end
  return calls
end

-- The jail cannot be had: nobody can vouch for the scripts. A runtime that is no good is a fault of its own; else the
-- machine is to blame, and the template is not refused for it.
local function give_up(self, message, code)
  self.not_run = message
  if code == "runtime" then
    local place = outline.read(self.text).values.runtime
    local found = { file = "template.json", message = message }
    self.faults:add { place and fault.at(found, self.text, place) or found }
  else
    self.jail_problem, self.jail_code = message, code
  end
end

-- A bundle that is sealed and stored, and that its device then refuses to open.
local function size_warning(self, plan, decisions)
  local sizes, bytes = {}, 0
  for _, file in ipairs(self.template.files) do sizes[file.file] = file.size end
  for _, decision in ipairs(decisions) do
    bytes = bytes + (decision.included and sizes[decision.file] or 0)
  end
  if bytes > M.BUNDLE_BYTES then
    self.warnings:add({ { file = "template.json",
      message = ("the files have %d bytes together; what opens them takes at most %d"):format(bytes, M.BUNDLE_BYTES),
      hint = "whoever opens such a file needs `--max-bytes`" } }, plan.name)
  end
end

local function open_tryout(self, options)
  if options.jail == false then
    self.not_run = "the jail was not wanted"
    return nil
  end
  local made, message, code = tryout.new { runtime = self.template.runtime, config = options.config }
  if not made then give_up(self, message, code) end
  return made
end

local function check_plans(self, options)
  local runner <close> = open_tryout(self, options)
  self.limits = runner and runner.limits
  local alone = {}
  for i, plan in ipairs(self.plans) do
    local decisions = plans.select(self.template.file_structure, plan.tools)
    size_warning(self, plan, decisions)
    local task = {
      template = self.template, plan = plan, vars = self.given, faults = self.faults, warnings = self.warnings,
      decisions = decisions, tryout = not self.not_run and runner or nil,
      alone = alone, thorough = options.thorough,
    }
    local outcome, message, code = plan_check.run(task)
    if not outcome then
      give_up(self, message, code)
      task.tryout = nil
      outcome = plan_check.run(task)
    end
    self.outcomes[i] = outcome
  end
end

-- Hostile values in all personal files: they are the same in every plan, so once is enough.
local function rehearse(self, seconds)
  local fullest = self.plans[1]
  for _, plan in ipairs(self.plans) do
    if #plan.tools > #fullest.tools then fullest = plan end
  end
  self.rehearsal = rehearsal.run(self.template, sample.vars(self.template, fullest, self.given), seconds)
  self.faults:add(self.rehearsal.faults)
  self.warnings:add(self.rehearsal.warnings)
end

local function describe(template)
  local bytes = 0
  for _, file in ipairs(template.files) do bytes = bytes + file.size end
  return { name = template.name, version = template.version, content_sha256 = template.hash, files = #template.files,
    bytes = bytes, runtime = template.runtime or tryout.RUNTIME, container = template.container }
end

--- Checks a template.
-- @tparam string dir
-- @tparam[opt] table options `plans` (list of `{name, tools}`; default `plans.defaults`), `vars` (values that count
--   instead of the samples), `config` (limits of the jail: see `config`), `jail` (false: nothing is run), `thorough`
--   (all hostile values, however long it takes)
-- @treturn table report: `ok`; `faults` and `warnings` (see `template.fault`); `not_run`, why scripts did not run;
--   `jail_problem` and `jail_code` when the jail could not be had; `took_ms`; and when the template could be read:
--   `loaded` (see `template.load`), `template`, `plans` (outcomes, see `template.plan_check`), `scripts`, `calls`,
--   `limits` (when scripts were to run), `rehearsal`
function M.run(dir, options)
  options = options or {}
  local began = clock.now()
  local looked = survey.run(dir)
  local self = {
    template = looked.template, text = looked.text, plans = options.plans or plans.defaults, given = options.vars,
    faults = fault.set(), warnings = fault.set(), outcomes = {},
  }
  self.faults:add(looked.faults)
  self.warnings:add(looked.warnings)
  if self.template then
    rule_faults(self)
    variable_faults(self)
    rehearse(self, options.thorough and math.huge)
    check_plans(self, options)
  end
  local faults = self.faults:list()
  return {
    ok = #faults == 0 and not self.jail_problem, faults = faults, warnings = self.warnings:list(),
    jail_problem = self.jail_problem, jail_code = self.jail_code, not_run = self.not_run,
    loaded = self.template, template = self.template and describe(self.template), plans = self.outcomes,
    scripts = merge_scripts(self.outcomes),
    calls = merge_calls(self.outcomes), limits = self.limits, rehearsal = self.rehearsal,
    took_ms = (clock.now() - began) * 1000,
  }
end

return M
