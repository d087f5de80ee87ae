-- atelier.jail: children, verdicts, walls. The corpus of hostile scripts is spec/jail.
local jail = require "atelier.jail"

local function run(source, limits, more)
  local child <close> = assert(jail.new(limits))
  local job = { source = source }
  for name, value in pairs(more or {}) do
    job[name] = value
  end
  return assert(child:run(job))
end

after_each(function()
  collectgarbage()
  collectgarbage()
  assert.equal(0, jail.live_handles())
end)

describe("a verdict", function()
  it("is ok, with what was printed and what it took", function()
    local v = run "print('hello', 1, nil)"
    assert.same({ "ok", "", "hello\t1\tnil\n" }, { v.verdict, v.message, v.output })
    assert.equal(12, v.usage.output_bytes)
    assert(v.usage.instructions > 0 and v.usage.memory > 0 and v.usage.time_ms > 0)
  end)

  local cases = {
    { "error", 2, "attempt to perform arithmetic on a nil value", "local x =\nnil + 1" },
    { "syntax", 3, "unexpected symbol near '='", "\n\nx = = 1" },
    { "instructions", 2, "more instructions than the limit allows", "\nwhile true do end" },
    { "memory", 2, "more memory than the limit allows", "local t = {}\nwhile true do t[#t + 1] = {} end" },
    { "time", 2, "more time than the limit allows", "\nlocal _ = (('a'):rep(400)):find(('a-'):rep(12) .. 'b')" },
    { "output", 1, "more output than the limit allows", "while true do print('flood') end" },
  }
  for _, case in ipairs(cases) do
    it("is " .. case[1] .. ", with the line", function()
      local v = run(case[4], { time = 0.3 })
      assert.same({ case[1], case[2], case[3], "main.lua" }, { v.verdict, v.line, v.message, v.script })
    end)
  end
end)
