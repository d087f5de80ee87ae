local check = require "template.check"
local fault = require "template.fault"
local folder = require "cli.template.folder"
local json = require "atelier.json"
local term = require "cli.term"
local vars = require "template.vars"

local M = {
  example = "atelier template check templates/smartgram.at\natelier template check smartgram --json",
}

function M.options(parser)
  parser:argument("template", "A folder NAME.at, or the name of one in the templates folder.")
  parser:option("--vars", "A JSON object with values that count instead of the samples."):argname "VARS.json"
  parser:flag("--thorough", "Try every hostile value, however long it takes; of large files some are left out.")
  parser:flag("--no-jail", "Do not run the scripts: nothing is then known of what they do.")
end

local function plural(n, word)
  return ("%d %s%s"):format(n, word, n == 1 and "" or "s")
end

-- A list for JSON: only what a program can use, `[]` where there is nothing.
local function listed(faults)
  local list = json.array {}
  for i, f in ipairs(faults) do
    list[i] = { file = f.file, line = f.line, column = f.column, message = f.message, hint = f.hint,
      verdict = f.verdict, plans = f.plans and json.array(f.plans), source = f.excerpt and f.excerpt[1] }
  end
  return list
end

local function plan_row(outcome, report)
  local row = { plan = outcome.plan, files = json.array(outcome.files), left_out = json.array(outcome.left_out),
    tools = json.array(outcome.tools), capabilities = json.array(outcome.capabilities or {}), runs = outcome.runs,
    hostile_runs = outcome.hostile, script = outcome.script, line = outcome.line, message = outcome.message,
    verdict = outcome.verdict or "not run", calls = outcome.calls, scripts = json.array {}, usage = {} }
  for _, script in ipairs(report.scripts) do
    local figures = outcome.scripts[script.script]
    row.scripts[#row.scripts + 1] = figures
    for name, value in pairs(figures or {}) do
      if name ~= "script" and name ~= "runs" then
        row.usage[name] = math.max(row.usage[name] or 0, value)
      end
    end
  end
  return row
end

local function summary(report)
  if report.ok then
    return ("%s %s: all is well"):format(report.template.name, report.template.version)
  elseif #report.faults == 0 then
    return "the jail could not be had, and the scripts were not run: " .. report.jail_problem
  end
  local first = fault.format(report.faults[1]):match "^[^\n]*"
  return #report.faults == 1 and first or ("%d faults; the first: %s"):format(#report.faults, first)
end

-- A fault of the template refuses it; a jail that cannot be had is a fault of this machine.
local function outcome_of(report)
  local result = { ok = report.ok, code = "ok", exit = 0, message = summary(report), report = report, warnings = {} }
  if #report.faults > 0 then
    result.code, result.exit = "template", 3
  elseif not report.ok then
    result.code, result.exit = report.jail_code or "jail", 1
  end
  for i, warning in ipairs(report.warnings) do
    result.warnings[i] = { code = "template", message = fault.format(warning) }
  end
  if report.not_run then
    local loud = "THE SCRIPTS HAVE NOT BEEN RUN: " .. report.not_run
    table.insert(result.warnings, 1, { code = "not_run", message = loud })
  end
  return result
end

local function with_details(result)
  local report = result.report
  result.template, result.limits, result.calls = report.template, report.limits, report.calls
  result.took_ms = report.took_ms
  result.faults, result.notes = listed(report.faults), listed(report.warnings)
  result.plans, result.scripts = json.array {}, report.scripts
  for i, outcome in ipairs(report.plans) do
    result.plans[i] = plan_row(outcome, report)
  end
  if report.rehearsal then
    local r = report.rehearsal
    result.hostile = { values = r.values, left_out = r.left_out, rendered = r.rendered, refused = r.refused }
  end
  result.report = nil
  return result
end

--- Checks, and makes a command's result of what came of it.
-- @tparam string dir
-- @tparam table options see `template.check`
-- @treturn table result
function M.check(dir, options)
  return outcome_of(check.run(dir, options))
end

--- Reads the values that were given to count instead of the samples.
-- @tparam ?string path
-- @treturn[1] ?table values; nil when no path was given
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.given(path)
  if not path then
    return nil
  end
  local text, message, code = folder.read(path, 1 << 28)
  if not text then
    return nil, message, code
  end
  return vars.read(text, path)
end

function M.run(args)
  local dir, config, code = folder.find(args.template)
  if not dir then
    return nil, config, code
  end
  local given, message, why = M.given(args.vars)
  if message then
    return nil, message, why
  end
  local result = M.check(dir, { vars = given, config = config, jail = not args.no_jail,
    thorough = args.thorough })
  return args.json and with_details(result) or result
end

local FIGURES = {
  { "instructions", "instructions", term.count, function(v) return v end },
  { "memory", "memory", term.size, function(v) return v end },
  { "time", "time_ms", term.duration, function(v) return v * 1000 end },
  { "output", "output_bytes", term.size, function(v) return v end },
}

-- Each figure beside its limit; the bars take what the terminal has left.
local function show_scripts(report)
  local longest = 6
  for _, row in ipairs(report.scripts) do
    longest = math.max(longest, #row.script)
  end
  local width = math.max(3, math.min(16, (term.screen_width() - longest) // 4 - 11))
  local header, rows, limits = { "script" }, {}, { term.dim "limit" }
  for _, figure in ipairs(FIGURES) do
    header[#header + 1] = figure[1]
    limits[#limits + 1] = term.dim(("%8s"):format(figure[3](figure[4](report.limits[figure[1]]))))
  end
  for i, row in ipairs(report.scripts) do
    rows[i] = { term.safe(row.script) }
    for _, figure in ipairs(FIGURES) do
      local used = row[figure[2]]
      local limit = figure[4](report.limits[figure[1]])
      local text = used and (("%8s "):format(figure[3](used)) .. term.bar(used / limit, width)) or ("%8s"):format "?"
      table.insert(rows[i], text)
    end
  end
  rows[#rows + 1] = limits
  term.columns(header, rows)
end

local function show_plans(report)
  local rows = {}
  for i, o in ipairs(report.plans) do
    local verdict = o.verdict == "ok" and term.green "ok" or o.verdict and term.red(o.verdict) or term.yellow "not run"
    rows[i] = { term.safe(o.plan), ("%d of %d"):format(#o.files, #o.files + #o.left_out), tostring(#o.tools),
      tostring(o.runs), tostring(o.hostile), verdict }
  end
  term.columns({ "plan", "files", "tools", "runs", "hostile", "verdict" }, rows)
end

local function show_calls(calls)
  local names = {}
  for name, count in pairs(calls) do
    if count > 0 then
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b)
    if calls[a] ~= calls[b] then
      return calls[a] > calls[b]
    end
    return a < b
  end)
  for i, name in ipairs(names) do
    names[i] = ("%s %d"):format(name, calls[name])
  end
  if #names > 0 then
    term.field("calls", term.wrap("in one run at most: " .. table.concat(names, ", "), 16))
  end
end

local function show_report(report)
  local t = report.template
  print(("%s  %s, %s, runtime %s, container %s"):format(term.bold(t.name .. " " .. t.version), plural(t.files, "file"),
    term.size(t.bytes), t.runtime, t.container))
  if #report.plans > 0 then
    print()
    show_plans(report)
  end
  if report.limits and #report.scripts > 0 then
    print()
    show_scripts(report)
    show_calls(report.calls)
  end
  if report.rehearsal then
    local r = report.rehearsal
    local end_of_it = #r.faults == 0 and "none became code" or term.red(plural(#r.faults, "fault"))
    local rest = r.left_out == 0 and "" or (" (%d more with --thorough: the files are large)"):format(r.left_out)
    local text = ("%d values in every place%s: %d renderings, %d refused with a diagnosis, %s"):format(r.values, rest,
      r.rendered, r.refused, end_of_it)
    term.field("hostile", term.wrap(text, 16))
  end
end

--- Prints each fault on standard error, as a compiler does.
-- @tparam table report see `template.check`
function M.show_faults(report)
  for _, f in ipairs(report.faults) do
    local head, rest = term.safe(fault.format(f)):match "^([^\n]*)(.*)$"
    local plans = f.plans and ("  (plan%s %s)"):format(f.plans[2] and "s" or "", table.concat(f.plans, ", ")) or ""
    io.stderr:write(head, term.dim(term.safe(plans)), rest, "\n")
  end
end

function M.show(result)
  local report = result.report
  if report.template then
    show_report(report)
  end
  io.stdout:flush()
  M.show_faults(report)
  local verdict = #report.faults > 0 and term.red "refused" or report.not_run and term.yellow "not known"
    or term.green "ok"
  print(("\n%s  %s, %s, %s"):format(verdict, plural(#report.faults, "fault"), plural(#report.warnings, "warning"),
    term.duration(report.took_ms)))
end

return M
