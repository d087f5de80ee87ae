--- A template of 8 files and about 250 KB of Lua that compresses like real Lua, the same on every machine.
-- @module spec.bench.make_template
local json = require "atelier.json"

local M = {}

local WORDS = {}
for word in ([[account action attempt batch button cache caption check click comment config count cursor delay device
  element entry error event feed field filter follower frame handle image index input interval item label layer limit
  list log match media message mode moment name next offset option page pause pixel point post profile query queue
  range ratio reason region report result retry row screen scroll search session state step story swipe table tag
  target task text threshold timeline timer title token touch total trace user value video view wait width window]])
  :gmatch "%S+" do
  WORDS[#WORDS + 1] = word
end

local FILES = {
  timeline = 63000, follow = 35000, unfollow = 30000, target = 28000, video_training = 22500, advanced_analysis = 42000,
}

local VARIABLES = {
  "device_hash", "plan", "license_key", "expires_at", "issued_at", "template", "version", "artifact_id",
}

-- A small linear congruential generator: the same text everywhere, unlike math.random's.
local function randomizer(seed)
  return function(n)
    seed = (seed * 1664525 + 1013904223) & 0xffffffff
    return (seed >> 8) % n + 1
  end
end

local function source(title, size, head, random)
  local function word()
    return WORDS[random(#WORDS)]
  end
  local function name()
    return random(2) == 1 and word() or word() .. "_" .. word()
  end
  local statements = {
    function() return ("local %s = %s(%s, %d)"):format(name(), name(), name(), random(900)) end,
    function() return ("if %s then %s.%s = %d end"):format(name(), name(), word(), random(5000)) end,
    function() return ("for i, %s in ipairs(self.%s) do list[i] = %d end"):format(name(), name(), random(64)) end,
    function() return ("-- %s the %s before its %s is ready"):format(word(), word(), word()) end,
    function() return ('self.%s = self.%s or { %s = %d, title = "%s %s" }'):format(name(), name(), word(), random(100),
      word(), word()) end,
    function() return ('%s:%s("%s", %d, %d)'):format(word(), name(), name(), random(320), random(568)) end,
  }
  local lines, length = { "-- " .. title, head .. "local M = {}" }, 0
  while length < size do
    local body = { ("\nfunction M.%s_%d(self, list, %s)"):format(name(), random(1000), word()) }
    for _ = 1, 3 + random(8) do
      local text = statements[random(#statements)]()
      body[#body + 1] = text:sub(1, 2) == "--" and "  " .. text or "  do " .. text .. " end"
    end
    body[#body + 1] = "end"
    lines[#lines + 1] = table.concat(body, "\n")
    length = length + #lines[#lines]
  end
  lines[#lines + 1] = "\nreturn M\n"
  return table.concat(lines, "\n")
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local function config_text()
  local lines = {}
  for _, name in ipairs(VARIABLES) do
    lines[#lines + 1] = ('  "%s": "{{%s}}",'):format(name, name)
  end
  return "{\n" .. table.concat(lines, "\n") .. '\n  "plan_tools": {{plan_tools}}\n}\n'
end

--- Writes the template into a new folder.
-- @tparam string folder ends with NAME.at
-- @tparam[opt] table options asset = bytes of a random binary file to add
function M.write(folder, options)
  assert(os.execute("mkdir -p '" .. folder .. "'"))
  local random, name = randomizer(20261122), folder:match "([^/]+)%.at$"
  local head = {}
  for _, variable in ipairs(VARIABLES) do
    head[#head + 1] = ('local %s = "{{%s}}"\n'):format(variable, variable)
  end
  write(folder .. "/main.lua", source("Tools for {{device_hash}}, plan {{plan}}", 24000,
    table.concat(head) .. "local available_tools = {{plan_tools}}\n", random))
  write(folder .. "/config.json", config_text())
  local structure = {
    { file = "main.lua", type = "lua", required = true }, { file = "config.json", type = "json", required = true },
  }
  local tools = {}
  for tool in pairs(FILES) do
    tools[#tools + 1] = tool
  end
  table.sort(tools)
  for _, tool in ipairs(tools) do
    write(("%s/%s.lua"):format(folder, tool), source(tool, FILES[tool], "", random))
    structure[#structure + 1] = { file = tool .. ".lua", type = "lua", required = false, tool = tool }
  end
  if options and options.asset then
    assert(os.execute(("head -c %d /dev/urandom > '%s/asset.bin'"):format(options.asset, folder)))
    structure[#structure + 1] = { file = "asset.bin", type = "binary", required = true }
  end
  write(folder .. "/template.json", assert(json.encode({
    name = name, version = "1.0.0", description = "made by the benchmark", runtime = "autotouch",
    file_structure = structure, required_variables = VARIABLES,
  }, { indent = 2 })))
end

return M
