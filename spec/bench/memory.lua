--- The most memory that a process needs while it builds a bundle with a 500 MB asset.
-- @module spec.bench.memory
local clock = require "clock"
local host = require "atelier.host"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"

local M = {}

local ASSET = tonumber(os.getenv "ASSET") or 500 * 1000 * 1000

-- Runs one command in the program's own process and reports its high-water mark (proc(5), VmHWM).
local PROBE = [[
  package.path = package.path .. ";%s/?.lua"
  local code = require("cli").main { [0] = "atelier", %s }
  for line in io.lines "/proc/self/status" do
    local kib = line:match "^VmHWM:%%s*(%%d+)"
    if kib then io.stderr:write("VmHWM ", kib, "\n") end
  end
  return code
]]

local function peak(env, words)
  local path = lab.folder .. "/probe.lua"
  local file = assert(io.open(path, "w"))
  file:write(PROBE:format(host.root, words))
  file:close()
  local began = clock.now()
  local text = lab.shell(("%s '%s' run '%s' 2>&1"):format(env, host.exe, path))
  return tonumber(text:match "VmHWM (%d+)") / 1024, clock.now() - began
end

--- Runs it and prints the figures.
function M.run()
  print(("== memory: a bundle with an asset of %d MB"):format(ASSET // 1000000))
  local state = lab.folder .. "/memory"
  lab.shell(("rm -rf '%s' && mkdir -p '%s/templates'"):format(state, state))
  make_template.write(state .. "/templates/large.at", { asset = ASSET })
  local env = ("env -u DATABASE_URL ATELIER_STATE='%s' ATELIER_TEMPLATES='%s/templates' ATELIER_LOG=warn")
    :format(state, state)
  lab.shell(("SERVE=0 env -u DATABASE_URL ATELIER_STATE='%s' '%s' demo"):format(state, host.exe))
  lab.shell(("%s '%s' template publish large"):format(env, host.exe))
  local built, seconds = peak(env, '"generate", "--device", "DEMO-MAX-001", "--template", "large", "--out", "'
    .. state .. '/large.ate"')
  print(("  generate   %6.1f MiB at most, %.1f s (bar: 64 MiB)"):format(built, seconds))
  local key = lab.shell(("%s '%s' license --device DEMO-MAX-001 --template large"):format(env, host.exe)):gsub("%s", "")
  local opened, open_seconds = peak(env, ('"open", "%s/large.ate", "--device", "DEMO-MAX-001", "--license", "%s"')
    :format(state, key))
  print(("  open       %6.1f MiB at most, %.1f s"):format(opened, open_seconds))
  lab.shell(("%s '%s' env --stop"):format(env, host.exe))
  lab.shell(("rm -rf '%s'"):format(state))
end

return M
