--- What rendering costs once a template is compiled, and what a whole check costs: the part of a bundle that no kernel
-- and no disk has a say in. Each figure is a median; beside it, what it must not exceed.
-- @module spec.bench.rendering
local check = require "template.check"
local clock = require "clock"
local host = require "atelier.host"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"
local plans = require "plans"
local sample = require "template.sample"
local template = require "template"

local M = {}

local ROUNDS <const> = 2000
local SHIPPED <const> = host.root .. "/templates/smartgram.at"

local function report(what, value, unit, bar)
  print(("  %-44s %8.1f %s  (bar: %g %s)%s"):format(what, value, unit, bar, unit, value <= bar and "" or "  MISSED"))
end

-- Microseconds of one call, the median of many small batches.
local function time_of(f)
  local times = {}
  for i = 1, 31 do
    local began = clock.now()
    for _ = 1, ROUNDS // 31 do f() end
    times[i] = (clock.now() - began) * 1e6 / (ROUNDS // 31)
  end
  return lab.median(times)
end

-- Renders the named files (all texts by default) for one device after another.
local function renderer(dir, plan, only)
  local loaded = assert(template.load(dir))
  assert(loaded:compile_all())
  local files = {}
  for _, file in ipairs(loaded.files) do
    if file.kind ~= "binary" and (not only or file.file == only) then files[#files + 1] = assert(loaded:compile(file)) end
  end
  local vars, n = sample.vars(loaded, plan), 0
  return function()
    n = n + 1
    vars.device_hash = "DEVICE-" .. n
    for _, compiled in ipairs(files) do assert(compiled:render(vars)) end
  end
end

local function checked(dir)
  local times = {}
  for i = 1, 3 do
    local result = check.run(dir)
    assert(result.ok, "the template is refused")
    times[i] = result.took_ms / 1000
  end
  return lab.median(times)
end

--- Runs it and prints the figures.
function M.run()
  local max = plans.defaults[#plans.defaults]
  local large = lab.folder .. "/rendering/bench.at"
  lab.shell(("rm -rf '%s/rendering'"):format(lab.folder))
  make_template.write(large)
  print "== rendering: compiled templates, one device after another"
  report("main.lua as shipped", time_of(renderer(SHIPPED, max, "main.lua")), "µs", 10)
  report("all texts of the shipped template", time_of(renderer(SHIPPED, max)), "µs", 50)
  report("all texts of a template of 250 KB", time_of(renderer(large, max)), "µs", 50)
  print "== template check: all plans, hostile values, every button, in the jail"
  report("the shipped template", checked(SHIPPED), "s", 3)
  report("a template of 250 KB", checked(large), "s", 15)
  lab.shell(("rm -rf '%s/rendering'"):format(lab.folder))
end

return M
