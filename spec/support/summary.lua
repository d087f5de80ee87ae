--- The specs' output: a line for each file while it runs, each failure in full, and `N passed, N failed` at the end.
local M = {}

return function(options)
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()
  local clock = require "clock"
  local file_began

  local function write(...)
    io.stdout:write(...)
    io.stdout:flush()
  end

  handler.fileStart = function(file)
    file_began = clock.now()
    write(file.name, " ")
    return nil, true
  end

  handler.testEnd = function(_, _, status)
    write(status == "success" and "." or status == "pending" and "s" or "F")
    return nil, true
  end

  handler.fileEnd = function()
    write((" %.1f s\n"):format(clock.now() - file_began))
    return nil, true
  end

  local function report(kind, failure)
    local message = type(failure.message) == "string" and failure.message or require("pl.pretty").write(failure.message)
    write("\n", kind, ": ", failure.name or "", "\n  at ", failure.trace and failure.trace.short_src or "?", ":",
      tostring(failure.trace and failure.trace.currentline or "?"), "\n  ", (message:gsub("\n", "\n  ")), "\n")
    if failure.trace and failure.trace.traceback and options.verbose then
      write(failure.trace.traceback, "\n")
    end
  end

  handler.suiteEnd = function()
    for _, failure in ipairs(handler.failures) do
      report("failed", failure)
    end
    for _, failure in ipairs(handler.errors) do
      report("error", failure)
    end
    local failed = handler.failuresCount + handler.errorsCount
    write(("%d passed, %d failed"):format(handler.successesCount, failed))
    write(handler.pendingsCount > 0 and (", %d skipped\n"):format(handler.pendingsCount) or "\n")
    return nil, true
  end

  busted.subscribe({ "file", "start" }, handler.fileStart)
  busted.subscribe({ "test", "end" }, handler.testEnd, { predicate = handler.cancelOnPending })
  busted.subscribe({ "file", "end" }, handler.fileEnd)
  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  return setmetatable(handler, M)
end
