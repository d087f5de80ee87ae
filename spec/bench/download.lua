--- Downloads of 10 MB and 1 MB files through one front, every one authorised and recorded, beside nginx with one worker
-- and sendfile, which does neither. Interleaved.
-- @module spec.bench.download
local http = require "atelier.http"
local keyring = require "ate.keyring"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"
local signal = require "posix.signal"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local SECONDS = tonumber(os.getenv "SECONDS") or 4
local CUSTOMERS = 400
local CONNECTIONS = 8
local NGINX_PORT = 18788
local SIZES = { { "10 MB", 10000000, "floor 95, goal 100" }, { "1 MB", 1000000, "floor 75, goal 95" } }

local CONF = [[
worker_processes 1; daemon off; pid %s/nginx.pid; error_log %s/error.log;
events { worker_connections 1024; }
http {
  sendfile on; tcp_nopush on; tcp_nodelay on; access_log off; keepalive_requests 1000000; types { }
  default_type application/octet-stream;
  client_body_temp_path %s/t1; proxy_temp_path %s/t2; fastcgi_temp_path %s/t3; uwsgi_temp_path %s/t4;
  scgi_temp_path %s/t5;
  server { listen 127.0.0.1:%d backlog=1024; root %s; }
}
]]

-- The machine's nginx, or the one of its package, unpacked: installing it would start a service on port 80.
local function find_nginx()
  local found = lab.shell "PATH=$PATH:/usr/sbin command -v nginx || true":gsub("%s+$", "")
  if found ~= "" then
    return found
  end
  local folder = lab.folder .. "/nginx"
  lab.shell(("mkdir -p '%s' && cd '%s' && { test -x usr/sbin/nginx || { apt-get download nginx && dpkg-deb -x nginx_*.deb .; }; } \z
    >/dev/null 2>&1 || true"):format(folder, folder))
  local path = folder .. "/usr/sbin/nginx"
  return unistd.access(path, "x") and path or nil
end

local function start_nginx(program, root)
  local folder = lab.folder .. "/nginx"
  lab.shell(("mkdir -p '%s' && chmod 755 '%s'"):format(folder, folder))
  local file = assert(io.open(folder .. "/bench.conf", "w"))
  local user = unistd.geteuid() == 0 and "user root;\n" or ""
  file:write(user, CONF:gsub("%%s", folder, 7):format(NGINX_PORT, root))
  file:close()
  local pid = assert(unistd.fork())
  if pid == 0 then
    unistd.exec("/bin/sh", { "-c", 'exec "$0" -p "$1" -c "$1/bench.conf" 2>"$1/stderr"', program, folder })
    unistd._exit(127)
  end
  local server = { pid = pid }
  function server.stop()
    if server.pid then
      signal.kill(server.pid, signal.SIGTERM)
      wait.wait(server.pid)
      server.pid = nil
    end
  end
  lab.await(function()
    local answer = http.request { url = ("http://127.0.0.1:%d/"):format(NGINX_PORT), timeout = 10 }
    return answer ~= nil
  end, 20, "nginx answers: see " .. folder)
  return setmetatable(server, { __close = server.stop })
end

-- The keeper has files built anew that lack the mark of the present master key: these shall stay as they are.
local function mark_files(s)
  for _, key in ipairs(assert(keyring.load(s.folder .. "/keyring.json")):list()) do
    if key.kind == "master" and key.current then
      assert(s.conn:exec(("alter table ate_files alter column master_key_id set default '%s'"):format(key.id)))
    end
  end
end

-- Requests of the files of all customers, in turn.
local function requests_of(s)
  local requests = {}
  local rows = assert(s.conn:query [[select f.id::text, substr(d.device_hash, 7)::int as n from ate_files f
    join devices d on d.id = f.device_id order by 2]])
  for i, row in ipairs(rows) do
    requests[i] = { "/api/ate/download/" .. row.id, s:token(row.n) }
  end
  return requests
end

-- `cpu` gives the server's processor time, and its database's where it has one.
local function measure(load, cpu, bytes)
  local server, database = cpu()
  load.connections, load.seconds = CONNECTIONS, SECONDS
  local result = service.load(load)
  local server_after, database_after = cpu()
  result.cpu_us = (server_after - server) * 1e6 / result.requests
  result.database_us = ((database_after or 0) - (database or 0)) * 1e6 / result.requests
  if result.errors > 0 then
    print(("    FAILED: %d of %d requests: %s"):format(result.errors, result.requests, result.kinds))
  elseif result.bytes < result.rate * bytes * 0.9 then -- some are still on their way at the end
    print(("    FAILED: %.0f bytes a request"):format(result.bytes / result.rate))
  end
  return result
end

local function median(runs, figure)
  local values = {}
  for i, run in ipairs(runs) do
    values[i] = run[figure]
  end
  return lab.median(values)
end

local function line(name, runs)
  print(("    %-10s %8.1f /s %8.0f MB/s   p50 %6.2f ms  p99 %6.2f ms   CPU/request: %.0f µs, Postgres %.0f µs")
    :format(name, median(runs, "rate"), median(runs, "bytes") / 1e6, median(runs, "p50"), median(runs, "p99"),
    median(runs, "cpu_us"), median(runs, "database_us")))
end

local function measure_size(s, nginx, size)
  local label, bytes, floor = table.unpack(size)
  local path = s:files(CUSTOMERS, bytes)
  local requests = requests_of(s)
  local ours, theirs = {}, {}
  local server <close> = nginx and start_nginx(nginx, s.folder .. "/files")
  local url = path:sub(#(s.folder .. "/files") + 1)
  local function front()
    return s:cpu "front 1"
  end
  measure({ port = s.port, requests = requests }, front, bytes)
  for i = 1, ROUNDS do
    ours[i] = measure({ port = s.port, requests = requests }, front, bytes)
    theirs[i] = nginx and measure({ port = NGINX_PORT, requests = { { url } } }, function()
      return lab.family_cpu(server.pid)
    end, bytes)
  end
  print(("  %s, %d connections, medians of %d interleaved rounds"):format(label, CONNECTIONS, ROUNDS))
  line("atelier", ours)
  if nginx then
    line("nginx", theirs)
    print(("    share      %8.0f %%   (%s)"):format(100 * median(ours, "rate") / median(theirs, "rate"), floor))
  else
    print "    nginx: not measured, it is neither here nor to be had"
  end
end

--- Runs it and prints the figures.
function M.run()
  print "== downloads: bearer token, entitlement, history row; beside nginx with sendfile"
  local nginx = find_nginx()
  local s <close> = service.start("download", { customers = CUSTOMERS, config = { workers = 1 } })
  mark_files(s)
  for _, size in ipairs(SIZES) do
    measure_size(s, nginx, size)
  end
end

return M
