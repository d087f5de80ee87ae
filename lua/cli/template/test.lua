local dirent = require "posix.dirent"
local fault = require "template.fault"
local folder = require "cli.template.folder"
local json = require "atelier.json"
local stat = require "posix.sys.stat"
local term = require "cli.term"

local M = {
  example = "atelier template test templates/smartgram.at",
}

local MISSING = "template test: busted, the test framework, is missing: install the package lua-busted, or the rock "
  .. "busted"

function M.options(parser)
  parser:argument("template", "A folder NAME.at, or the name of one in the templates folder.")
end

local function spec_files(dir)
  local ok, names = pcall(dirent.dir, dir .. "/spec")
  local found = {}
  for _, name in ipairs(ok and names or {}) do
    local path = dir .. "/spec/" .. name
    local info = name:find "_spec%.lua$" and stat.stat(path)
    if info and stat.S_ISREG(info.st_mode) ~= 0 then
      found[#found + 1] = path
    end
  end
  table.sort(found)
  return found
end

-- A dependency of tests alone: everything else must work without it.
local FRAMEWORK = "busted"

local function part(name)
  return require(FRAMEWORK .. "." .. name)
end

local function failure_of(entry)
  local trace = entry.trace or {}
  local message = type(entry.message) == "string" and entry.message or tostring(entry.message)
  return { name = entry.name and fault.plain(entry.name), file = trace.short_src, line = trace.currentline,
    message = fault.plain(message) }
end

-- Runs the files; gives counts and failures. `progress` is called with the status of each test.
local function run_specs(files, progress)
  local busted = part "core" ()
  require(FRAMEWORK)(busted)
  local handler = part "outputHandlers.base" ()
  handler:subscribe { language = "en" }
  busted.subscribe({ "test", "end" }, function(_, _, status)
    progress(status)
    return nil, true
  end)
  part "modules.test_file_loader" (busted, { "lua" })(files, {}, { excludes = {}, recursive = false })
  part "execute" (busted)(1, {})
  local failures = json.array {}
  for _, list in ipairs { handler.failures, handler.errors } do
    for _, entry in ipairs(list) do
      failures[#failures + 1] = failure_of(entry)
    end
  end
  return { passed = handler.successesCount, failed = #failures, pending = handler.pendingsCount, failures = failures }
end

function M.run(args)
  local dir, message, code = folder.find(args.template)
  if not dir then
    return nil, message, code
  end
  dir = #dir > 1 and dir:gsub("/+$", "") or dir
  local files = spec_files(dir)
  if not files[1] then
    return nil, ("template test: %s: there are no specs spec/*_spec.lua"):format(dir), "template"
  elseif not pcall(part, "core") then
    return nil, MISSING, "missing"
  end
  local result = run_specs(files, function(status)
    if not args.json then
      io.stdout:write(status == "success" and "." or status == "pending" and "s" or "F")
      io.stdout:flush()
    end
  end)
  result.files = json.array(files)
  result.ok = result.failed == 0 and result.passed > 0
  result.message = ("%d passed, %d failed"):format(result.passed, result.failed)
  if not result.ok then
    result.code, result.exit = "template", 3
  end
  return result
end

function M.show(result)
  print()
  for _, failure in ipairs(result.failures) do
    local place = ("%s:%s: "):format(failure.file or "?", failure.line or "?")
    io.stderr:write(place, term.safe(failure.name or ""), "\n  ",
      (term.safe(failure.message):gsub("\n", "\n  ")), "\n")
  end
  print((result.ok and term.green or term.red)(result.message))
end

return M
