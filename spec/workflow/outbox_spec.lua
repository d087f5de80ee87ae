-- Files on their way to a store that takes its time: how many, and what does not wait for them.
local json = require "atelier.json"
local stand_in = require "spec.support.supabase"
local worlds = require "spec.workflow.support.world"

describe("files on their way to the store", function()
  local world, server

  after_each(function()
    world:close()
    if server then
      server:stop()
      server = nil
    end
  end)

  it("hold up neither claims nor builds", function()
    server = stand_in.start()
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
    assert.is_true(done_before_last < 14)
  end)

  -- A world whose store holds the file of D0001 until it is told to go on, with what the worker has told.
  local function held(count, changes)
    server = stand_in.start()
    local config = { storage = "supabase", supabase_url = server.url, supabase_service_role_key = stand_in.KEY }
    for name, value in pairs(changes or {}) do
      config[name] = value
    end
    world = worlds.new { config = config }
    world:customers(count)
    server:control("/fault", { times = 1000, method = "POST", path = "D0001", held = true })
  end

  local function status_of(hash)
    return world:value([[select q.status from file_generation_queue q join devices d on d.id = q.device_id
      where d.device_hash = $1]], { hash })
  end

  -- What a customer gets who comes now.
  local function bytes_of(hash)
    local file = world:file(hash)
    local handle = assert(world.store:get(file.file_path))
    return #handle:read(file.file_size_bytes) == file.file_size_bytes
  end

  -- All in one, whose end is waited for; and many, the first of which is not done.
  for _, batch in ipairs { 32, 4 } do
    it(("can be had while one before them is not done (batches of %d)"):format(batch), function()
      held(9, { worker_batch = batch })
      local done, slow_was, had = {}, nil, nil
      local w = world:worker { on_event = function(event, job)
        done[#done + 1] = event == "completed" and job.device_hash or nil
      end, on_turn = function()
        if #done == 8 and not slow_was then
          slow_was, had = status_of "D0001", bytes_of "D0009" and bytes_of "D0002"
          server:control "/calm"
        end
      end }
      assert.equal(9, assert(w:drain()).completed)
      assert.equal("processing", slow_was)
      assert.is_true(had)
      assert.equal("D0001", done[9])
      assert.is_true(bytes_of "D0001")
    end)
  end

  it("hold up nobody who comes while they are under way", function()
    held(1)
    local done, bought, slow_was = 0, false, nil
    local w = world:worker { on_event = function(event)
      done = done + (event == "completed" and 1 or 0)
    end, on_turn = function()
      if not bought and world:value "select count(*)::int from file_generation_queue where status = 'processing'" == 1 then
        bought = world:customer "LATER"
      elseif done == 1 and not slow_was then
        slow_was = status_of "D0001"
        server:control "/calm"
      end
    end }
    assert.equal(2, assert(w:drain()).completed)
    assert.equal("processing", slow_was)
  end)

  it("wait alone where the store refuses them, whatever is still under way", function()
    held(6)
    local function refuse()
      server:control("/fault", { times = 1000, method = "POST", path = "D0003", status = 403, body = "<html>no</html>",
        headers = { ["content-type"] = "text/html" } })
    end
    refuse()
    local done, put_off = 0, nil
    local w = world:worker { on_event = function(event)
      done = done + (event == "completed" and 1 or 0)
    end, on_turn = function()
      if done == 4 and not put_off then
        put_off = status_of "D0001"
        server:control "/calm"
        refuse()
      end
    end }
    w:drain()
    assert.equal("processing", put_off)
    local refused = world:query [[select q.status, q.retry_count, q.run_after > q.created_at as waits, q.error_message
      from file_generation_queue q join devices d on d.id = q.device_id where d.device_hash = 'D0003']][1]
    assert.same({ "queued", 0, true }, { refused.status, refused.retry_count, refused.waits })
    assert.equal(5, w.queue.counts.completed)
  end)

  it("are recorded in time also where so many are under way that there is no room", function()
    held(8, { worker_batch = 2 })
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("head -c 2M /dev/urandom >%s/a.mp4"):format(folder)))
      end }
    local done, slow_was = 0, nil
    local w = world:worker { on_event = function(event)
      done = done + (event == "completed" and 1 or 0)
    end, on_turn = function()
      if done == 7 and not slow_was then
        slow_was = status_of "D0001"
        server:control "/calm"
      end
    end }
    assert.equal(8, assert(w:drain()).completed)
    assert.equal("processing", slow_was)
  end)

  -- What the store has; whoever was given up is not among them.
  local function awaits_objects(w, count)
    world:await(function()
      w:drain()
      return world:value("select count(*)::int from ate_files") == count and #assert(world.store:list "generated/") == count
    end)
  end

  it("hold up the return of no other job when the store is out of order, and go when they arrive late", function()
    held(4)
    server:control("/fault", { times = 1000, method = "POST", status = 503 })
    local w = world:worker()
    assert.equal("unavailable", select(3, w:drain()))
    assert.equal("queued 0, queued 0, queued 0, queued 0", world:states())
    assert.equal(0, w.outbox:count())
    server:control "/calm" -- now the store has the first one's file
    awaits_objects(w, 4)
    assert.equal("completed 0, completed 0, completed 0, completed 0", world:states())
  end)

  it("hold up no other job when the database is back", function()
    held(3)
    local w = world:worker()
    assert(w:build((assert(w.queue:exchange(3)))))
    assert(w.outbox:settle(60, function(outbox) return outbox:count() == 1 end))
    local conn = assert(require "atelier.pg".connect(world.url))
    world.conns[#world.conns + 1] = conn
    assert.is_true(w:resume(conn, w.queue.id))
    assert.equal("queued 0, completed 0, completed 0", world:states())
    server:control "/calm"
    awaits_objects(w, 3)
  end)

  it("cost their jobs nothing when the store never says what became of them", function()
    held(1)
    local w
    w = world:worker { on_turn = function()
      if w and w.outbox.sent[1] then
        w.outbox.sent[1].give_up_at = 0 -- five minutes have passed
      end
    end }
    assert.equal("unavailable", select(3, w:drain()))
    assert.equal("queued 0", world:states())
    server:control "/calm"
    awaits_objects(w, 1)
    assert.equal("completed 0", world:states())
  end)

  it("are given up together where the store does not answer, and the loop is told", function()
    server = stand_in.start()
    local turns, back = 0, nil
    local queued = "select count(*)::int from file_generation_queue where status = 'queued'"
    world = worlds.new { config = { storage = "supabase", supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY } }
    world:customers(3)
    server:control("/fault", { times = 1000, silent = true })
    local w
    w = world:worker { on_turn = function(seconds)
      if seconds and seconds > 1 then
        turns, back = turns + 1, back or world:value(queued)
      end
    end }
    local jobs = assert(w.queue:exchange(3))
    assert(w:build(jobs))
    assert.equal(3, w.outbox:count())
    assert.equal(3, assert(w:release()))
    assert.is_true(turns >= 3)
    assert.same({ 3, 3 }, { back, world:value(queued) }, "the jobs go back before the store is waited for")
  end)

  it("go back at no cost when the time to drain is over before the store has answered", function()
    server = stand_in.start()
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
