-- Files on their way to a store that takes its time: how many, and what does not wait for them.
local json = require "atelier.json"
local stand_in = require "spec.support.supabase"
local worlds = require "spec.workflow.support.world"

describe("files on their way to the store", function()
  local world

  after_each(function()
    world:close()
  end)

  it("hold up neither claims nor builds", function()
    local server = stand_in.start()
    world = worlds.new { config = { storage = "supabase", supabase_url = server.url, worker_batch = 4,
      supabase_service_role_key = stand_in.KEY } }
    world:customers(14)
    server:control("/fault", { times = 1, method = "POST", held = true })
    local built, done, done_before_last = 0, 0, nil
    local w = world:worker { on_event = function(event)
      built = built + (event == "building" and 1 or 0)
      done = done + (event == "completed" and 1 or 0)
      if built == 14 and not done_before_last then
        done_before_last = done
        server:control "/calm"
      end
    end }
    assert.equal(14, assert(w:drain()).completed)
    assert.equal(0, done_before_last)
    server:stop()
  end)

  it("are given up together where the store does not answer, and the loop is told", function()
    local server = stand_in.start()
    local turns = 0
    world = worlds.new { config = { storage = "supabase", supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY } }
    world:customers(3)
    server:control("/fault", { times = 1000, silent = true })
    local w
    w = world:worker { on_turn = function(seconds)
      turns = turns + (seconds and seconds > 1 and 1 or 0)
    end }
    local jobs = assert(w.queue:exchange(3))
    assert(w:build(jobs))
    assert.equal(3, w.outbox:count())
    assert.equal(3, assert(w:release()))
    assert.is_true(turns >= 3)
    assert.equal(3, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
    server:stop()
  end)

  it("go back at no cost when the time to drain is over before the store has answered", function()
    local server = stand_in.start()
    world = worlds.new { config = { storage = "supabase", supabase_url = server.url, drain_time = 2, worker_batch = 4,
      supabase_service_role_key = stand_in.KEY } }
    world:customers(4)
    server:control("/fault", { times = 1000, silent = true })
    local w, built = nil, 0
    w = world:worker { on_event = function(event)
      built = built + (event == "building" and 1 or 0)
      if built == 3 then
        w:stop()
      end
    end }
    assert.equal(0, assert(w:drain()).completed)
    assert.equal(3, w.outbox:count())
    assert.equal(4, assert(w:release()))
    assert.equal(4, world:value [[select count(*)::int from file_generation_queue
      where status = 'queued' and retry_count = 0 and error_code = 'released']])
    server:stop()
  end)

  it("are few where they are large", function()
    world = worlds.new { config = { worker_batch = 8 } }
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("head -c 2M /dev/urandom >%s/a.mp4"):format(folder)))
      end }
    world:customers(8)
    local most = 0
    local w = world:worker { on_event = function(event)
      if event == "building" then
        local pipe = assert(io.popen(("ls '%s/files/.staging' 2>/dev/null | wc -l"):format(world.dir)))
        most = math.max(most, tonumber(pipe:read "a"))
        pipe:close()
      end
    end }
    assert.equal(8, assert(w:drain()).completed)
    assert.is_true(most >= 1 and most <= 3, most .. " at once")
    world:check_objects()
  end)
end)
