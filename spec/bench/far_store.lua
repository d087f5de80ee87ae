--- The store that is far away (far_store.c), as a process: started, gone, back, and asked what it has.
-- @module spec.bench.far_store
local http = require "atelier.http"
local lab = require "spec.bench.lab"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Store = {}
Store.__index = Store

--- The service's key: it takes any.
M.KEY = "key"

--- Starts one.
-- @tparam number milliseconds until each answer
-- @tparam[opt] string folder for the bytes; without it only sizes are kept
-- @treturn table store: url, env (for the program), pid
function M.start(milliseconds, folder)
  local program = lab.folder .. "/far_store"
  lab.shell(("cc -O2 -o '%s' '%s/spec/bench/far_store.c'"):format(program, lab.root))
  local from, to = assert(unistd.pipe())
  local pid = assert(unistd.fork())
  if pid == 0 then
    unistd.dup2(to, 1)
    stdlib.setenv("LD_PRELOAD", nil)
    unistd.exec(program, { tostring(milliseconds), "0", folder })
    unistd._exit(127)
  end
  unistd.close(to)
  local port = assert(tonumber((unistd.read(from, 16) or ""):match "%d+"), "far_store did not start")
  unistd.close(from)
  local url = "http://127.0.0.1:" .. port
  return setmetatable({ pid = pid, url = url, env = { SUPABASE_URL = url, SUPABASE_SERVICE_ROLE_KEY = M.KEY } }, Store)
end

--- Sizes by key of what it has.
-- @treturn table
function Store:objects()
  local found = {}
  local response = assert(http.request { url = self.url .. "/keys", timeout = 60, max_bytes = 1 << 28 })
  for key, size in response.body:gmatch "(%S+) (%d+)\n" do
    found[key:match "^[^/]*/(.*)"] = tonumber(size)
  end
  return found
end

--- It is gone: connections are reset, and none is taken.
function Store:go()
  signal.kill(self.pid, signal.SIGUSR1)
end

--- It is back, with all that it had.
function Store:come()
  signal.kill(self.pid, signal.SIGUSR2)
end

--- Processor time so far.
function Store:cpu()
  return lab.family_cpu(self.pid)
end

--- Ends it.
function Store:stop()
  signal.kill(self.pid, signal.SIGTERM)
  wait.wait(self.pid)
end

Store.__close = Store.stop

return M
