--- Checks one plan's bundle: its files by the rules, its texts with sample values, and its scripts in the jail, also
-- with hostile names in the place of a device's.
-- Knows the jail through `template.tryout`; decides what is a fault and what a warning.
-- @module template.plan_check

local clock = require "clock"
local fault = require "template.fault"
local kit = require "template.kit"
local nasty = require "template.nasty"
local sample = require "template.sample"
local siblings = require "template.siblings"
local tryout = require "template.tryout"

local M = {}

--- For runs with hostile values, unless there is no hurry.
M.SECONDS = 1

-- Variables that scripts take for granted; the others are free text, and hostile in a rehearsal of the scripts.
local SETTLED <const> = { "plan", "plan_tools", "expires_at", "issued_at", "template", "version", "artifact_id" }
local SHORT <const> = 64 -- bytes: longer hostile texts tell nothing more about a script

local HINTS <const> = {
  instructions = "a loop that does not end, or too much work: `usleep` and the screen's calls cost nothing here",
  memory = "a table or a string that grows without end",
  time = "a pattern or a call that takes too long",
  output = "print less; log() is not counted",
  crash = "report it with the script: the interpreter should not crash",
}

-- A script asks for a sibling that other plans have.
local function gated_hint(self, message)
  local name = message:match("no script '([^']+)'")
  for _, decision in ipairs(self.decisions) do
    if name and not decision.included and (decision.file == name or decision.file == name .. ".lua") then
      return ("%s belongs to the tool %s, which the plan %s lacks: look into {{plan_tools}} before loading it")
        :format(decision.file, decision.tool, self.plan.name)
    end
  end
end

-- A verdict other than "ok" as a fault at its script's line.
local function fault_of(self, verdict, texts, when)
  local list = verdict.faults and verdict.faults[1] and verdict.faults or { verdict }
  local faults = {}
  for i, one in ipairs(list) do
    local what = verdict.verdict == "error" and one.message or ("%s: %s"):format(verdict.verdict, one.message)
    local known = one.script and texts[one.script]
    faults[i] = {
      file = known and one.script or tryout.MAIN, line = known and one.line or nil, message = what .. when,
      hint = HINTS[verdict.verdict] or gated_hint(self, one.message or ""), verdict = verdict.verdict,
    }
    if faults[i].line then fault.show_line(faults[i], known) end
  end
  return faults
end

local function when_pressed(verdict)
  if not verdict.press or verdict.press == 0 then return "" end
  return (" (when button %d%s is pressed)"):format(verdict.press,
    verdict.title and verdict.title ~= "" and ", " .. verdict.title or "")
end

local function files_of(asked, texts)
  local files = {}
  for _, name in ipairs(asked or {}) do
    for _, file in ipairs { name, name .. ".lua", (name:gsub("%.", "/")) .. ".lua" } do
      if texts[file] then files[file] = true end
    end
  end
  return files
end

-- Each figure of a script is the highest of its runs.
local function note_usage(scripts, file, verdict)
  local row = scripts[file] or { script = file, runs = 0 }
  scripts[file], row.runs = row, row.runs + 1
  for name, value in next, verdict.usage or {} do row[name] = math.max(row[name] or 0, value) end
end

local function note_calls(self, verdict)
  for name, count in next, verdict.calls or {} do
    self.calls[name] = math.max(self.calls[name] or 0, count)
  end
end

-- What is behind the buttons: a run counts for the siblings that no button asks for, else for main.lua.
local function run_presses(self, texts)
  local verdicts, message, code = self.tryout:presses()
  if not verdicts then return nil, message, code end
  local buttons = verdicts[1].buttons or 0
  if buttons > tryout.PRESSES then
    local left = ("the first dialog has %d buttons: only %d were tried"):format(buttons, tryout.PRESSES)
    self.warnings:add({ { file = tryout.MAIN, message = left } }, self.plan.name)
  end
  local always = files_of(verdicts[#verdicts].asked, texts)
  for _, verdict in ipairs(verdicts) do
    note_calls(self, verdict)
    self.runs = self.runs + 1
    if verdict.verdict ~= "ok" then
      self.faults:add(fault_of(self, verdict, texts, when_pressed(verdict)), self.plan.name)
    end
    for file in next, files_of(verdict.asked, texts) do
      self.reached[file] = true
      if not always[file] then note_usage(self.scripts, file, verdict) end
    end
  end
  return true
end

-- Siblings that no run asked for are loaded alone, so that each script has run at least once.
local function run_rest(self, texts)
  local names = {}
  for name in next, texts do
    local done = self.alone[name] == texts[name] -- in another plan
    if name:find("%.lua$") and name ~= tryout.MAIN and not self.scripts[name] and not done then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local verdict, message, code = self.tryout:alone(name)
    if not verdict then return nil, message, code end
    self.runs, self.alone[name] = self.runs + 1, texts[name]
    note_usage(self.scripts, name, verdict)
    if verdict.verdict ~= "ok" and not self.reached[name] then
      local list = fault_of(self, verdict, texts, " (loaded alone: no run of main.lua asked for it)")
      if verdict.verdict == "error" then
        self.warnings:add(list, self.plan.name)
      else
        self.faults:add(list, self.plan.name)
      end
    end
  end
  return true
end

-- Scripts with placeholders, of a bundle's texts.
local function personal_scripts(made, texts)
  local changed = {}
  for _, entry in ipairs(made.entries) do
    if entry.compiled and entry.compiled.as == "lua" then changed[entry.name] = texts[entry.name] end
  end
  return changed
end

local function hostile_verdict(self, case, made, vars)
  local texts = made:check(sample.with_text(vars, case.value, SETTLED))
  if not texts then return nil end
  local verdict, message, code = self.tryout:main(personal_scripts(made, texts))
  if not verdict then return nil, message, code end
  return verdict.verdict == "ok" or fault_of(self, verdict, texts, (" (hostile value, %s)"):format(case.name))
end

-- The names of a device and its like are hostile; what a script takes for granted is not. A script may well refuse such
-- a value by an error; it must not do anything worse.
local function run_hostile(self, made, vars)
  local count, refusals, first = 0, 0, nil
  local deadline = clock.now() + (self.thorough and math.huge or M.SECONDS)
  for _, case in ipairs(nasty.strings) do
    if #case.value <= SHORT and not case.name:find("^byte") and clock.now() < deadline then
      local result, message, code = hostile_verdict(self, case, made, vars)
      if message then return nil, message, code end
      count = count + (result and 1 or 0)
      if type(result) == "table" and result[1].verdict == "error" then
        refusals, first = refusals + 1, first or result[1]
      elseif type(result) == "table" then
        self.faults:add(result, self.plan.name)
      end
    end
  end
  if first then
    first.message = ("%s; %d of %d hostile texts end so"):format(first.message, refusals, count)
    self.warnings:add({ first }, self.plan.name)
  end
  self.hostile = count
  return true
end

local function worst(self)
  for _, f in ipairs(self.faults:list()) do
    for _, plan in ipairs(f.plans or {}) do
      if plan == self.plan.name and f.verdict then return f.verdict, f end
    end
  end
  return "ok"
end

-- main.lua, its buttons, hostile names. Gives nil, message, code when the jail itself fails.
local function run_main(self, made, vars, texts)
  local verdict, message, code = self.tryout:main()
  if not verdict then return nil, message, code end
  self.runs = self.runs + 1
  note_usage(self.scripts, tryout.MAIN, verdict)
  note_calls(self, verdict)
  if verdict.verdict ~= "ok" then
    self.faults:add(fault_of(self, verdict, texts, ""), self.plan.name)
    return true
  end
  local ok
  ok, message, code = run_presses(self, texts)
  if not ok then return nil, message, code end
  return run_hostile(self, made, vars)
end

local function run_all(self, made, vars, texts)
  self.tryout:load(texts)
  if texts[tryout.MAIN] then
    local ok, message, code = run_main(self, made, vars, texts)
    if not ok then return nil, message, code end
  else
    local none = { file = tryout.MAIN, message = "the bundle has none: each script is loaded alone" }
    self.warnings:add({ none }, self.plan.name)
  end
  return run_rest(self, texts)
end

local function outcome(self, made)
  local included, excluded = {}, {}
  for _, decision in ipairs(self.decisions) do
    table.insert(decision.included and included or excluded, decision.file)
  end
  local verdict, f = worst(self)
  return {
    plan = self.plan.name, tools = self.plan.tools, files = included, left_out = excluded,
    capabilities = made and made.capabilities, verdict = made and self.tryout and verdict or nil, script = f and f.file,
    line = f and f.line, message = f and f.message, runs = self.runs, hostile = self.hostile,
    scripts = self.scripts, calls = self.calls,
  }
end

--- Checks a plan.
-- @tparam table options `template` (compiled), `plan` (`{name, tools}`), `vars` (given values), `faults` and `warnings`
--   (sets of `template.fault`, added to), `tryout` (or nil: nothing runs), `decisions` (of `plans.select`), `alone`
--   (texts by name that other plans have loaded alone; added to), `thorough` (take the time that it takes)
-- @treturn[1] table what came of it: `{plan, tools, files, left_out, capabilities, verdict, script, line, message,
--   runs, hostile, scripts, calls}`; no `verdict` when the bundle cannot be made, or nothing was to run
-- @return[2] nil
-- @treturn[2] string message: the jail itself failed
-- @treturn[2] string code
function M.run(options)
  local self = {
    plan = options.plan, faults = options.faults, warnings = options.warnings, tryout = options.tryout,
    decisions = options.decisions, alone = options.alone or {}, thorough = options.thorough, scripts = {}, calls = {},
    reached = {}, runs = 0, hostile = 0,
  }
  local made, problem = kit.new(options.template, self.plan.tools)
  if not made then
    for _, found in ipairs(fault.parse(problem)) do
      -- What the rules gate away is known, and told at its entry of the manifest.
      if not found.message:find("^required, but ") then self.faults:add({ found }, self.plan.name) end
    end
    return outcome(self)
  end
  local vars = sample.vars(options.template, self.plan, options.vars)
  local texts, message = made:check(vars)
  if not texts then
    self.faults:add(fault.parse(message), self.plan.name)
    return outcome(self)
  end
  local known = {}
  for _, file in ipairs(options.template.files) do known[file.file] = true end
  self.faults:add(siblings.check(texts, known), self.plan.name)
  if self.tryout then
    local ok, reason, code = run_all(self, made, vars, texts)
    if not ok then return nil, reason, code end
  end
  return outcome(self, made)
end

return M
