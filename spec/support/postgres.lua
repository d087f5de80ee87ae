--- A scratch Postgres cluster for the specs: one per run, unix socket only, in a temporary folder.
--
-- Started at the first call. A shell that holds a pipe to this process owns the cluster, so that it stops
-- and its folder goes however this process ends. Not durable: fsync is off.
--
-- @module spec.support.postgres
local fcntl = require "posix.fcntl"
local stdio = require "posix.stdio"

local M = {}

-- busted gives each spec file its own set of loaded modules, the registry is one for the run.
local registry = debug.getregistry()
local KEY = "atelier.spec.postgres"

local KEEPER = [[
set -eu
dir=$1
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -V | tail -n 1)
[ -n "$bin" ] || bin=$(dirname "$(command -v initdb)")
as() { "$@"; }
if [ "$(id -u)" = 0 ]; then
  chown postgres "$dir"
  as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
fi
cd "$dir"
stop() {
  as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  cd /
  rm -rf "$dir"
}
trap stop EXIT
trap '' INT
start() {
  as "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync
  as "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 600 -o "-c listen_addresses='' -c unix_socket_directories='$dir' \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 \
    -c max_connections=80 -c shared_buffers=32MB -c jit=off" start
}
if start >"$dir/start" 2>&1; then echo ready >"$dir/fifo"; else cat "$dir/start" >"$dir/fifo"; fi
cat >/dev/null
]]

-- A sanitizer that is preloaded into this process is no business of the tools.
local CLEAN = "exec env -u LD_PRELOAD "

local function run(command)
  local pipe = assert(io.popen(CLEAN .. command, "r"))
  local output = pipe:read("a"):gsub("%s+$", "")
  assert(pipe:close(), command)
  return output
end

local function start()
  local dir = run("mktemp -d /tmp/atelier-spec.XXXXXX")
  run("chmod 755 " .. dir)
  run(("mkfifo %s/fifo"):format(dir))
  local script = assert(io.open(dir .. "/keeper", "w"))
  script:write(KEEPER)
  script:close()
  local keeper = assert(io.popen((CLEAN .. "sh %s/keeper %s"):format(dir, dir), "w"))
  -- Programs that a spec starts and leaves must not hold the keeper.
  assert(fcntl.fcntl(stdio.fileno(keeper), fcntl.F_SETFD, fcntl.FD_CLOEXEC))
  local fifo = assert(io.open(dir .. "/fifo", "r"))
  local answer = fifo:read("a")
  fifo:close()
  assert(answer == "ready\n", "the scratch cluster does not start: " .. answer)
  -- The collector closes the pipe and waits for the keeper; if it never runs, the end of the process does.
  return { dir = dir, keeper = keeper, count = 0, templates = {} }
end

local function cluster()
  registry[KEY] = registry[KEY] or start()
  return registry[KEY]
end

--- The folder of the socket.
-- @treturn string path
function M.host()
  return cluster().dir
end

--- How to reach a database of the cluster.
-- @tparam string name of the database
-- @tparam[opt] string user "postgres" by default, who is superuser here
-- @treturn string conninfo
function M.conninfo(name, user)
  return ("host=%s user=%s dbname=%s"):format(cluster().dir, user or "postgres", name)
end

--- Runs SQL in a database, as superuser. Raises when it fails.
-- @tparam string conninfo
-- @tparam string sql any number of statements
function M.run(conninfo, sql)
  local conn = assert(require("atelier.pg").connect(conninfo))
  local result, message = conn:exec(sql, { timeout = 120 })
  conn:close()
  assert(result, message)
  return result
end

--- A fresh database.
-- @tparam string name letters, digits and _; a number is added
-- @tparam[opt] string template a database made by `template`
-- @treturn string conninfo
function M.database(name, template)
  local state = cluster()
  state.count = state.count + 1
  local full = ("spec_%s_%d"):format(name:gsub("[^%w_]", "_"):lower():sub(1, 40), state.count)
  M.run(M.conninfo("postgres"), ('create database "%s" template "%s"'):format(full, template or "template1"))
  return M.conninfo(full)
end

--- A database to make others from, set up once per run.
-- @tparam string name
-- @tparam function setup called with its conninfo, the first time; must close its connections
-- @treturn string for `database`
function M.template(name, setup)
  local state = cluster()
  if not state.templates[name] then
    local conninfo = M.database("template_" .. name)
    setup(conninfo)
    state.templates[name] = conninfo:match "dbname=(%S+)"
  end
  return state.templates[name]
end

return M
