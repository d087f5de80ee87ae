-- No bundle is packaged that was not run: what the jail says decides the job, and its row tells.
local signal = require "posix.signal"
local worlds = require "spec.workflow.support.world"

describe("a bundle that does not run", function()
  local world

  after_each(function()
    world:close()
  end)

  local function verdict_of(hash)
    return world:query([[select q.status, q.error_code, q.error_message, q.verdict, q.usage, q.retry_count
      from file_generation_queue q join devices d on d.id = q.device_id where d.device_hash = $1]], { hash })[1]
  end

  local CASES = {
    error = { "local x = nil\nreturn x.y", 2 },
    syntax = { "return +", 1 },
    instructions = { "\nwhile true do end", 2 },
    memory = { "local t = {}\nfor i = 1, 100 do t[i] = ('x'):rep(2 ^ 20) .. i end" },
    time = { "return ('a'):rep(400):find(('a-'):rep(12) .. 'b')" },
    output = { "for i = 1, 1e6 do print('0123456789') end" },
  }

  for verdict, case in pairs(CASES) do
    it("fails its job for good, with the reason: " .. verdict, function()
      world = worlds.new {
        config = { jail_time = verdict == "time" and 0.5 or 60 },
        template = { files = { ["main.lua"] = "-- {{device_hash}} {{license_key}}\n" .. case[1] } },
      }
      world:customer "PHONE-1"
      local counts = assert(world:worker():drain())
      assert.same({ completed = 0, failed = 1, lost = 0 }, counts)
      local row = verdict_of "PHONE-1"
      assert.equal("failed", row.status)
      assert.equal(0, row.retry_count)
      if verdict == "syntax" then -- the renderer sees that the chunk is none
        assert.equal("template", row.error_code)
      else
        assert.equal("jail_" .. verdict, row.error_code)
        assert.equal(verdict, row.verdict)
        assert.is_table(row.usage)
        assert.matches("main.lua", row.error_message, 1, true)
      end
      if case[2] then
        assert.matches((":%d:"):format(case[2] + 1), row.error_message, 1, true)
      end
      assert.same({}, world:keys())
      assert.is_nil(world:file "PHONE-1")
    end)
  end

  it("is tried again when somebody else killed the script, and not for ever", function()
    world = worlds.new { config = { jail_instructions = 1 << 50, jail_time = 600 },
      template = { files = { ["main.lua"] = "-- {{device_hash}} {{license_key}}\nwhile true do end" } } }
    world:customer "PHONE-1"
    local w = world:worker()
    for run = 1, 4 do
      local jobs = assert(w.queue:exchange(1))
      assert.equal(1, #jobs)
      local build = assert(w.builder:begin(jobs[1]))
      signal.kill(build.run.entry.child:pid(), signal.SIGKILL)
      assert(w:finish(build))
      local row = verdict_of "PHONE-1"
      assert.same({ run < 4 and "queued" or "failed", math.min(run, 3), "killed" },
        { row.status, row.retry_count, row.error_code })
      world:query "update file_generation_queue set run_after = now() - interval '1 hour'"
    end
    assert.same({}, world:keys())
  end)

  it("stops nobody else's, of the same kit", function()
    world = worlds.new { template = { files = {
      ["main.lua"] = 'local device = "{{device_hash}}"\nlocal key = "{{license_key}}"\n'
        .. 'if device == "PHONE-2" then while true do end end\nreturn device, key, {{plan_tools}}',
    } } }
    for i = 1, 3 do
      world:customer("PHONE-" .. i)
    end
    assert.same({ completed = 2, failed = 1, lost = 0 }, assert(world:worker():drain()))
    assert.equal("instructions", verdict_of("PHONE-2").verdict)
    assert.equal("ok", verdict_of("PHONE-1").verdict)
    assert.is_true(verdict_of("PHONE-3").usage.instructions > 0)
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("is refused for a sibling that it does not load", function()
    world = worlds.new { template = { files = { ["follow.lua"] = "return function( end" } } }
    world:customer "PHONE-1"
    assert(world:worker():drain())
    assert.equal("failed", verdict_of("PHONE-1").status)
    assert.matches("follow.lua", verdict_of("PHONE-1").error_message, 1, true)
  end)

  it("passes where the operator has turned the check off, and the row says so", function()
    world = worlds.new {
      config = { check_bundles = false },
      template = { files = { ["main.lua"] = "error '{{device_hash}} {{license_key}}'" } },
    }
    world:customer "PHONE-1"
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal(require("atelier.json").null, verdict_of("PHONE-1").verdict)
  end)
end)
