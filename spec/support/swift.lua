--- OpenStack Swift with its S3 API on loopback ports, as a real server that verifies signatures. User test:tester,
-- secret "testing"; one bucket "ate-files".
-- @module spec.support.swift
local clock = require "clock"
local http = require "atelier.http"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local socket = require "posix.sys.socket"
local time = require "posix.time"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Server = {}
Server.__index = Server

local BACKENDS = { "account", "container", "object" }

local COMMON = [[
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = %d
workers = 0
user = %s
swift_dir = %s
log_address = /nonexistent
log_level = ERROR
]]

local BACKEND = [[
devices = %s/devices
mount_check = false
disable_fallocate = true
[pipeline:main]
pipeline = %s-server
[app:%s-server]
use = egg:swift#%s
recon_cache_path = %s
]]

local PROXY = [[
[pipeline:main]
pipeline = catch_errors cache s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
conn_timeout = 60
node_timeout = 60
error_suppression_limit = 1000000
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
dns_compliant_bucket_names = true
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
]]

-- Free, and outside of what the kernel gives to whoever asks for any port: it stays free until the server takes it.
local function free_port()
  while true do
    local port = math.random(10000, 30000)
    local fd = assert(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
    local is_free = socket.bind(fd, { family = socket.AF_INET, addr = "127.0.0.1", port = port })
    unistd.close(fd)
    if is_free then
      return port
    end
  end
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function shell(command)
  local pipe = io.popen(command .. " 2>&1")
  local text = pipe:read "a"
  local ok, _, code = pipe:close()
  assert(ok or code == 1, command .. "\n" .. text) -- 1: a warning of the ring builder
end

local function set_up(dir, ports)
  shell(("mkdir -p '%s/etc' '%s/devices/d1' '%s/recon'"):format(dir, dir, dir))
  local user = "root"
  for _, kind in ipairs(BACKENDS) do
    local builder = ("cd '%s/etc' && swift-ring-builder %s.builder "):format(dir, kind)
    shell(builder .. "create 4 1 0")
    shell(builder .. ("add r1z1-127.0.0.1:%d/d1 1"):format(ports[kind]))
    shell(builder .. "rebalance")
    write(("%s/etc/%s.conf"):format(dir, kind), COMMON:format(ports[kind], user, dir .. "/etc")
      .. BACKEND:format(dir, kind, kind, kind, dir .. "/recon"))
  end
  write(dir .. "/etc/proxy.conf", COMMON:format(ports.proxy, user, dir .. "/etc") .. PROXY)
end

local function launch(dir, kind)
  local pid = assert(unistd.fork())
  if pid == 0 then
    stdlib.setenv("PYTHONWARNINGS", "ignore")
    local line = 'exec "swift-$1-server" "$2/etc/$1.conf" >"$2/$1.log" 2>&1 </dev/null'
    unistd.exec("/bin/sh", { "-c", line, "sh", kind, dir })
    unistd._exit(127)
  end
  return pid
end

--- Starts it below a folder and waits until it serves; raises when it does not within two minutes.
function M.start(dir)
  local ports, self = {}, setmetatable({ pids = {}, dir = dir }, Server)
  for _, kind in ipairs { "proxy", table.unpack(BACKENDS) } do
    ports[kind] = free_port()
  end
  set_up(dir, ports)
  for _, kind in ipairs { "account", "container", "object", "proxy" } do
    self.pids[#self.pids + 1] = launch(dir, kind)
  end
  self.endpoint = ("http://127.0.0.1:%d"):format(ports.proxy)
  local deadline = clock.now() + 120
  local status
  repeat
    local response, message = http.request { method = "PUT", url = self.endpoint .. "/ate-files", timeout = 10,
      sigv4 = { access_key = "test:tester", secret_key = "testing", region = "us-east-1" } }
    status = response and response.status or message
    if status ~= 200 then
      time.nanosleep { tv_sec = 0, tv_nsec = 100000000 }
    end
  until status == 200 or clock.now() > deadline
  assert(status == 200, "swift: " .. tostring(status))
  return self
end

-- Rows of a container's own database: so many objects by HTTP would take long. Nobody can read them.
local FILL = [[
import glob, sys, time
from swift.container.backend import ContainerBroker
from swift.common.utils import Timestamp
folder, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for path in glob.glob(folder + "/devices/d1/containers/*/*/*/*.db"):
    broker = ContainerBroker(path)
    if broker.get_info()["container"] == "ate-files":
        stamp = Timestamp(time.time()).internal
        broker.merge_items([{"name": "%s%07d" % (prefix, i + 1), "created_at": stamp, "size": 1, "deleted": 0,
            "content_type": "application/octet-stream", "etag": "9dd4e461268c8034f5c8564e155c67a6",
            "storage_policy_index": broker.storage_policy_index, "ctype_timestamp": None, "meta_timestamp": None}
            for i in range(count)])
]]

--- Makes the bucket list many objects of one byte: prefix0000001, …
function Server:fill(prefix, count)
  write(self.dir .. "/fill.py", FILL)
  shell(("PYTHONWARNINGS=ignore /usr/bin/python3 %s/fill.py %s %s %d"):format(self.dir, self.dir, prefix, count))
end

--- Ends it.
function Server:stop()
  for _, pid in ipairs(self.pids) do
    signal.kill(pid, signal.SIGTERM)
  end
  for _, pid in ipairs(self.pids) do
    wait.wait(pid)
  end
end

return M
