--- An HTTP server in a child process, so that a spec can be its client and do as it likes.
--
-- What the server logs, and a line for each completed request, go into a file that the spec can read.
--
-- @module spec.support.httpd_child
local httpd = require "atelier.httpd"
local signal = require "posix.signal"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

local Child = {}
Child.__index = Child

-- `ready` is a pipe's end: a signal that came before the handlers stand would end the child.
local function serve(server, path, options, ready)
  local file = assert(io.open(path, "w"))
  file:setvbuf("line")
  local run = {
    signals = { "TERM" },
    on_signal = function() server:drain(options.drain or 60) end,
    on_log = function(level, text) file:write(level, ": ", text, "\n") end,
    on_complete = function(request, info)
      file:write(("complete: %s %s %d %d %s\n"):format(request.method, request.path, info.status, info.bytes_sent,
        info.finished))
    end,
  }
  for name, value in pairs(options.run) do run[name] = value end
  run.handler = function(request) return options.run.handler(request, server, file) end
  run.on_start = function()
    unistd.write(ready, "r")
    unistd.close(ready)
    if options.run.on_start then options.run.on_start() end
  end
  local ok, message = server:run(run)
  file:write(ok and "ended\n" or "failed: " .. tostring(message) .. "\n")
  file:close()
end

--- Starts one. `options`: `limits`, `run` (options of server:run; the handler also gets the server and the log file), `drain`.
function M.start(options)
  local server = assert(httpd.listen { limits = options.limits })
  local self = setmetatable({ port = server:port(), path = os.tmpname() }, Child)
  local from, to = unistd.pipe()
  self.pid = assert(unistd.fork())
  if self.pid == 0 then
    unistd.close(from)
    local ok, message = xpcall(serve, debug.traceback, server, self.path, options, to)
    if not ok then io.stderr:write(message, "\n") end
    unistd._exit(ok and 0 or 1)
  end
  unistd.close(to)
  unistd.read(from, 1)
  unistd.close(from)
  server:close()
  return self
end

--- All that it has logged.
function Child:log()
  local file = assert(io.open(self.path))
  local text = file:read("a")
  file:close()
  return text
end

--- Waits until the log has the text, as it is; raises after 60 s. `from`: only what was logged behind so many bytes counts.
function Child:logs(text, from)
  local deadline = os.time() + 60
  while not self:log():find(text, (from or 0) + 1, true) do
    assert(os.time() < deadline, "never logged: " .. text .. "\n" .. self:log():sub(-4000))
    require("posix.time").nanosleep { tv_sec = 0, tv_nsec = 5000000 }
  end
end

function Child:kill(number)
  self.is_told = self.is_told or not number or number == signal.SIGTERM
  assert(signal.kill(self.pid, number or signal.SIGTERM))
end

--- Waits for its end: "exited", 0 when all is well.
function Child:wait()
  local _, how, code = wait.wait(self.pid)
  self.pid = nil
  return how, code
end

--- Drains it and asserts that it ended well.
function Child:stop()
  if self.pid then
    if not self.is_told then -- a second time would kill it where it has ended its loop, and no longer takes signals
      self:kill()
    end
    local how, code = self:wait()
    local log = self:log()
    os.remove(self.path)
    assert(how == "exited" and code == 0 and log:find("ended\n", 1, true), ("%s %s\n%s"):format(how, code, log:sub(-2000)))
  end
end

--- The number of its open descriptors, and its resident memory in KiB.
function Child:usage()
  local n = 0
  for _ in require("posix.dirent").files(("/proc/%d/fd"):format(self.pid)) do n = n + 1 end
  local status = assert(io.open(("/proc/%d/status"):format(self.pid)))
  local memory = tonumber(status:read("a"):match("VmRSS:%s*(%d+)"))
  status:close()
  return n, memory
end

return M
