--- Specs of a template in a few lines: its bundles rendered for a plan, its scripts run in the jail.
--
--     local app = require("template.testing").here()
--
--     describe("timeline.lua", function()
--       it("likes what it finds", function()
--         local run = app:bundle("starter"):run()
--         assert.equal("ok", run.verdict, run.why)
--         assert.is_true(run.calls.tap > 0)
--       end)
--     end)
--
-- `atelier template test NAME.at` runs the specs in NAME.at/spec. Knows nothing of the test framework.
-- @module template.testing

local json = require "atelier.json"
local kit = require "template.kit"
local nasty = require "template.nasty"
local plans = require "plans"
local sample = require "template.sample"
local template = require "template"
local tryout = require "template.tryout"

local M = {}

--- Texts that break careless scripts and renderers: a list of `{name, value}`.
M.hostile = nasty.strings
--- The plans, each `{name, tools}`.
M.plans = plans.defaults

local Subject, Bundle = {}, {}
Subject.__index, Bundle.__index = Subject, Bundle

--- Loads a template; raises with every fault when it cannot.
-- @tparam string dir
-- @treturn table subject
function M.template(dir)
  local loaded = assert(template.load(dir))
  assert(loaded:compile_all())
  return setmetatable({ template = loaded, name = loaded.name, version = loaded.version }, Subject)
end

--- The template to which the calling spec belongs: NAME.at for NAME.at/spec/x_spec.lua.
-- @treturn table subject
function M.here()
  local source = debug.getinfo(2, "S").source
  local dir = source:match("^@(.*)/spec/[^/]*$") or (source:find("^@spec/[^/]*$") and ".")
  return M.template(dir or error("here: the spec is not in the folder spec/ of a template: " .. source, 2))
end

local function plan_of(plan)
  if type(plan) == "table" then return { name = plan.name or "max", tools = plan.tools or plan } end
  for _, known in ipairs(plans.defaults) do
    if known.name == plan then return known end
  end
  error(("bundle: there is no plan %q; a list of tools does as well"):format(tostring(plan)), 3)
end

--- The bundle of a plan, rendered; raises with every fault.
-- @tparam string|table plan a plan's name, or a list of tools
-- @tparam[opt] table vars values that count instead of the samples
-- @treturn table bundle: `texts` (by file name), `files` (a list of names), `vars`, `plan`
-- @function subject:bundle
function Subject:bundle(plan, vars)
  plan = plan_of(plan)
  local made = assert(kit.new(self.template, plan.tools))
  local values = sample.vars(self.template, plan, vars)
  local files = {}
  for i, entry in ipairs(made.entries) do files[i] = entry.name end
  return setmetatable({ texts = assert(made:check(values)), files = files, vars = values, plan = plan.name, kit = made,
    runtime = self.template.runtime }, Bundle)
end

--- Tries to render: for specs of what must be refused.
-- @tparam string|table plan
-- @tparam[opt] table vars
-- @treturn[1] table bundle
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @function subject:try
function Subject:try(plan, vars)
  local ok, result = pcall(self.bundle, self, plan, vars)
  if ok then return result end
  return nil, result
end

--- Is this file in the bundle?
-- @tparam string name
-- @treturn boolean
-- @function bundle:has
function Bundle:has(name)
  for _, file in ipairs(self.files) do
    if file == name then return true end
  end
  return false
end

--- The value of a JSON file of the bundle.
-- @tparam[opt="config.json"] string name
-- @return value
-- @function bundle:json
function Bundle:json(name) return assert(json.decode(self.texts[name or "config.json"])) end

-- The verdict with `why`: one line for a failed assertion.
local function explained(verdict)
  local place = verdict.script and ("%s:%s: "):format(verdict.script, verdict.line or "?") or ""
  verdict.why = verdict.verdict == "ok" and "ok" or ("%s: %s%s"):format(verdict.verdict, place, verdict.message)
  verdict.output = verdict.output or ""
  verdict.calls = setmetatable(verdict.calls or {}, { __index = function() return 0 end })
  return verdict
end

-- A spec says what a script does; whether it is fast enough is `template check`'s to say, on the machine that counts.
local SECONDS <const> = 60

local OPTIONS <const> = { source = true, script = true, answers = true, config = true, button = true, texts = true }

local function check_options(options)
  for key in next, options do
    if not OPTIONS[key] then error(("run: unknown option '%s'"):format(tostring(key)), 3) end
  end
end

--- Runs a script of the bundle in the jail, in a state of its own.
-- @tparam[opt] table options `script`: its name, default main.lua; `source`: a text to run beside the bundle's scripts
--   instead; `answers`: what functions of the runtime return, by name, each a list, or the text of a Lua function;
--   `button`: which button of the first dialog is pressed; `texts`: scripts that are added or count instead, by name;
--   `config`: limits, such as `jail_instructions`; `jail_time` is 60 unless it is given
-- @treturn table verdict: `verdict`, `message`, `script`, `line`, `usage`, `calls` (0 for what was not called),
--   `output`, and `why`, a line that says it all
-- @function bundle:run
function Bundle:run(options)
  options = options or {}
  check_options(options)
  local limits = setmetatable({}, { __index = options.config })
  limits.jail_time = limits.jail_time or SECONDS
  local runner <close> = assert(tryout.new {
    runtime = self.runtime, config = limits, results = options.answers,
  })
  local texts = {}
  for name, text in next, self.texts do texts[name] = text end
  for name, text in next, options.texts or {} do texts[name] = text end
  runner:load(texts)
  if options.button then return explained(assert(runner:press(options.button))) end
  local name = options.source and "(spec)" or options.script or tryout.MAIN
  local source = options.source or texts[name] or error(("run: the bundle has no %s"):format(name), 2)
  return explained(assert(runner:run { name = name, source = source }))
end

return M
