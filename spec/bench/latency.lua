--- One bundle from process start to durable file, beside an empty `psql -c 'select 1'`.
-- @module spec.bench.latency
local clock = require "clock"
local host = require "atelier.host"
local lab = require "spec.bench.lab"

local M = {}

local RUNS = tonumber(os.getenv "RUNS") or 30

local function timed(command)
  local began = clock.now()
  lab.shell(command .. " 2>&1 >/dev/null")
  return (clock.now() - began) * 1000
end

--- Runs it and prints the figures.
function M.run()
  print "== one bundle: `atelier generate`, process start to durable file"
  local state = lab.folder .. "/latency"
  lab.shell(("mkdir -p '%s'"):format(state))
  local atelier = ("env -u DATABASE_URL ATELIER_STATE='%s' ATELIER_LOG=warn '%s'"):format(state, host.exe)
  lab.shell(("SERVE=0 %s demo"):format(atelier))
  local url = lab.shell(atelier .. " env"):match "'(.*)'"
  local generate, psql = atelier .. " generate --device DEMO-MAX-001", ("psql '%s' -c 'select 1'"):format(url)
  local ours, theirs = {}, {}
  timed(generate)
  timed(psql)
  for i = 1, RUNS do
    ours[i], theirs[i] = timed(generate), timed(psql)
  end
  lab.shell(atelier .. " env --stop")
  print(("  atelier generate        %6.1f ms (median of %d, interleaved)"):format(lab.median(ours), RUNS))
  print(("  psql -c 'select 1'      %6.1f ms"):format(lab.median(theirs)))
  print(("  over psql               %6.1f ms (bar: 60 ms)"):format(lab.median(ours) - lab.median(theirs)))
end

return M
