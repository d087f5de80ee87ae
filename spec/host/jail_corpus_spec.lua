-- The hostile corpus: each file of spec/jail is one script. Its first line says how it must end:
--   -- VERDICT[/VERDICT…] [LINE]: what it is
-- Several verdicts: which limit is hit first depends on the machine, or on the defect that the script is after.
local dirent = require "posix.dirent"
local jail = require "atelier.jail"

local FOLDER <const> = "spec/jail/"
local LIMITS <const> = { memory = 32 * 1024 * 1024, instructions = 10000000, output = 65536 }

local function read(name)
  local file <close> = assert(io.open(FOLDER .. name, "rb"))
  return file:read "a"
end

local function scripts()
  local names = {}
  for name in dirent.files(FOLDER) do
    if name:find "%.lua$" then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

-- The child's own timer knows the line, the parent's does not: where the child comes late even to that, it gets more time.
local function run(name, text, limits, line)
  for _, more in ipairs { 1, 5, 25 } do
    local child <close> = assert(jail.new(limits))
    child:walls() -- has greeted
    local v = assert(child:run { source = text, name = name })
    if v.verdict ~= "time" or v.line == line or not line or more == 25 then
      return v, child:alive()
    end
    limits.time = limits.time * 5
  end
end

local function expectation(text)
  local verdicts, line = text:match "^%-%- ([%a/]+) ?(%d*):"
  local set = {}
  for verdict in assert(verdicts):gmatch "%a+" do
    set[verdict] = true
  end
  return set, tonumber(line), verdicts
end

describe("the corpus", function()
  local names = scripts()

  it("has at least 80 scripts", function()
    assert(#names >= 80, #names)
  end)

  for _, name in ipairs(names) do
    local text = read(name)
    local expected, line, verdicts = expectation(text)
    it(name .. " ends as " .. verdicts, function()
      local limits = { time = expected.time and 0.4 or 60 } -- what is no verdict here is only slow
      for key, value in pairs(LIMITS) do
        limits[key] = value
      end
      local v, is_alive = run(name, text, limits, line)
      assert(expected[v.verdict], ("%s, line %s: %s"):format(v.verdict, v.line, v.message))
      if line and v.verdict == verdicts:match "^%a+" then
        assert.equal(line, v.line)
        assert.equal(name, v.script)
      end
      assert(utf8.len(v.message) and utf8.len(v.output) and #v.message <= 8192)
      assert(not v.message:find "[%z\1-\8\11-\31\127]", "control bytes in a message")
      assert(#v.output <= 4 * LIMITS.output)
      assert.equal(v.verdict == "ok", is_alive)
    end)
  end

  it("leaves nothing: no child, no descriptor", function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, jail.live_handles())
  end)

  it("does not change what comes after, in the same child", function()
    local child <close> = assert(jail.new { memory = LIMITS.memory, time = 60 })
    local probe = [[
      local names = {}
      for name in pairs(_G) do names[#names + 1] = name end
      table.sort(names)
      print(#names, ("x"):rep(3), getmetatable(_G), math.random(1000000), table.concat(names, " "))
    ]]
    local clean = assert(child:run { source = probe })
    assert.equal("ok", clean.verdict)
    for _, name in ipairs(names) do
      local text = read(name)
      if select(3, expectation(text)) == "ok" then
        assert.equal("ok", child:run({ source = text }).verdict, name)
        assert.equal(clean.output, child:run({ source = probe }).output, name)
      end
    end
  end)
end)
