--- What the jail costs a bundle: a personal main.lua of 24 KB beside seven modules, in a warm kit.
-- @module spec.bench.jail
local clock = require "clock"
local jail = require "jail"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"

local M = {}

local RUNS = tonumber(os.getenv "RUNS") or 500

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

-- Each run has a text of its own, as each device has: nothing of it can be remembered.
local function measure(pool, modules, source)
  local times = {}
  for i = 1, RUNS + 20 do
    local text = ("-- device %08d\n"):format(i) .. source
    local began = clock.now()
    local verdict = assert(pool:check("bench", modules, { source = text }, "autotouch"))
    times[i] = (clock.now() - began) * 1000
    assert(verdict.verdict == "ok", verdict.message)
  end
  return lab.median(table.move(times, 21, #times, 1, {}))
end

--- Runs it and prints the figures.
function M.run()
  print(("== the jail: main.lua of 24 KB, 7 modules of 222 KB, warm kit, median of %d runs"):format(RUNS))
  local folder = lab.folder .. "/jail.at"
  make_template.write(folder)
  local modules, names = { ["extra.lua"] = "return {}\n" }, { "extra" }
  for name in ("timeline follow unfollow target video_training advanced_analysis"):gmatch "%S+" do
    modules[name .. ".lua"] = read(("%s/%s.lua"):format(folder, name))
    names[#names + 1] = name
  end
  local main = read(folder .. "/main.lua"):gsub("{{plan_tools}}", "{}"):gsub("{{[%w_]+}}", "value")
  local calls = {}
  for i, name in ipairs(names) do
    calls[i] = ("require %q"):format(name)
  end
  local pool <close> = jail.pool()
  print(("  main.lua alone                  %6.2f ms (bar: 1 ms)"):format(measure(pool, modules, main)))
  print(("  main.lua that requires them all %6.2f ms"):format(measure(pool, modules,
    table.concat(calls, " ") .. " " .. main)))
end

return M
