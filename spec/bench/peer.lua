--- The peer: a copy of its folder with its packages installed, when there is one. PEER names the folder.
-- @module spec.bench.peer
local lab = require "spec.bench.lab"
local signal = require "posix.signal"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

--- Finds it.
-- @treturn[1] string its folder, ready to run
-- @treturn[2] nil when there is none
function M.find()
  local from = os.getenv "PEER" or lab.root .. "/../shared/peer"
  local file = io.open(from .. "/peer.mjs")
  if not file then
    return nil
  end
  file:close()
  local to = lab.folder .. "/peer"
  lab.shell(("mkdir -p '%s' && cp -f '%s'/*.mjs '%s'/*.sql '%s'/*.lua '%s'/package.json '%s/'")
    :format(to, from, from, from, from, to))
  local installed = io.open(to .. "/node_modules/.package-lock.json")
  if installed then
    installed:close()
  else
    lab.shell(("cd '%s' && npm install --no-package-lock --no-audit --no-fund >/dev/null 2>&1"):format(to))
  end
  return to
end

--- A database of the peer's with this many devices, and a file for each.
-- @tparam string folder as of `find`
-- @tparam table cluster
-- @tparam integer devices
-- @treturn string its address
function M.database(folder, cluster, devices)
  local url = lab.database(cluster, "bench_peer")
  lab.shell(("cd '%s' && node peer.mjs setup --database '%s' --devices %d"):format(folder, url, devices))
  return url
end

--- Starts its HTTP service.
-- @treturn table server: stop(), cpu()
function M.serve(folder, url, port, processes)
  local pid = assert(unistd.fork())
  if pid == 0 then
    unistd.chdir(folder)
    local options = ("--database '%s' --files . --port %d --processes %d"):format(url, port, processes)
    unistd.exec("/bin/sh", { "-c", "exec node peer.mjs serve " .. options .. " >serve.log 2>&1 </dev/null" })
    unistd._exit(127)
  end
  local server = {}
  function server.stop()
    if pid then
      signal.kill(pid, signal.SIGTERM)
      wait.wait(pid)
      pid = nil
    end
  end
  function server.cpu()
    return lab.family_cpu(pid)
  end
  return setmetatable(server, { __close = server.stop })
end

--- Requests of the status of devices 1 to n.
function M.status_requests(folder, n)
  local requests = {}
  local text = lab.shell(("cd '%s' && node peer.mjs token --user 1 --count %d"):format(folder, n))
  for hash, token in text:gmatch "%d+ (%S+) (%S+)\n" do
    requests[#requests + 1] = { "/api/ate/status?device_hash=" .. hash, token }
  end
  return requests
end

return M
