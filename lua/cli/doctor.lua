local config = require "config"
local doctor = require "doctor"
local json = require "atelier.json"
local term = require "cli.term"

local M = {
  example = "atelier doctor\natelier doctor --json",
}

function M.options() end

local MARKS = { ok = term.green "✔", warn = term.yellow "!", fail = term.red "✘" }

local function print_finding(finding)
  print(("  %s %-10s %-18s %s"):format(MARKS[finding.status], finding.part, term.line(finding.what),
    term.line(finding.detail)))
  if finding.remedy then
    print(term.dim("               → " .. term.line(finding.remedy)))
  end
end

function M.run(args)
  local values, message, code = config.load()
  if not values then
    return nil, message, code
  end
  local findings = doctor.examine(values, not args.json and print_finding or nil)
  local counts, first = { ok = 0, warn = 0, fail = 0 }, nil
  for _, finding in ipairs(findings) do
    if finding.status == "fail" then
      first = first or ("%s: %s: %s"):format(finding.part, finding.what, finding.detail)
    end
    counts[finding.status] = counts[finding.status] + 1
  end
  local result = { findings = json.array(findings), counts = counts }
  if counts.fail > 0 then
    result.ok, result.exit, result.code = false, 1, "findings"
    result.message = ("%d to mend; the first: %s"):format(counts.fail, first)
  end
  return result
end

function M.show(result)
  local counts = result.counts
  print(("\n%d in order, %s to look at, %s to mend"):format(counts.ok,
    counts.warn > 0 and term.yellow(counts.warn) or "0", counts.fail > 0 and term.red(counts.fail) or "0"))
end

return M
