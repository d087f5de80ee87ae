-- What compiles and loads, but fails with the first job: a reload must not bring it in.
local services = require "spec.daemon.support.service"

describe("a reload that would fail every job", function()
  local service

  after_each(services.close_all)

  local function change(name, from, to)
    local before = services.slurp(service.root .. "/" .. name)
    local changed, count = before:gsub(from, to)
    assert.equal(1, count, from)
    service:write(name, changed)
    return before
  end

  local function assert_refused(pattern)
    local state = service:reload()
    assert.is_false(state.reload.ok, pattern .. "\n" .. service:log())
    assert.matches(pattern, state.reload.message)
    assert.equal(1, state.generation)
  end

  it("is refused, and names what fails", function()
    service = services.new()
    service:start()
    for _, case in ipairs {
      { "lua/plans.lua", "M%.rules = {", "M.rule = {", "template tools, plan %w+: .*plans%.lua:%d+: attempt to index" },
      { "lua/plans.lua", "return M\n$", "return { rules = M.rules }\n", "attempt to call a nil value" },
      { "lua/workflow/values.lua", "uuid%.new%(%)", "uuid.old()", "values%.lua:%d+: attempt to call a nil value" },
    } do
      local before = change(case[1], case[2], case[3])
      assert_refused(case[4])
      service:write(case[1], before)
    end
    service:configure { jail_instructions = 1, jail_time = 60 }
    assert_refused "no bundle can be built: .*verdict instructions"
    service:configure {}
    service.world:customer "PHONE-1"
    service:await("the old generation builds", function() return service.world:file "PHONE-1" end)
    local state = service:reload()
    assert.is_true(state.reload.ok, state.reload.message)
    service.world:customer "PHONE-2"
    service:await("the new one does", function() return service.world:file "PHONE-2" end)
    service:stop()
  end)

  it("is taken when only one of several templates cannot be built", function()
    service = services.new()
    service.world:template { manifest = { name = "odd" }, files = { ["main.lua"] = "error 'always'\n" } }
    service:start()
    local state = service:reload()
    assert.is_true(state.reload.ok, state.reload.message)
    assert.matches("no bundle can be built.*template=odd", service:log())
    service:stop()
  end)
end)
