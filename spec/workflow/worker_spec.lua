-- The worker over a real queue: what it does when others, the store or the database stand in its way.
local json = require "atelier.json"
local pg = require "atelier.pg"
local program = require "spec.support.program"
local signal = require "posix.signal"
local storage = require "storage"
local worlds = require "spec.workflow.support.world"

local function statuses(world)
  local counts = {}
  for _, row in ipairs(world:query "select status, count(*)::int as n from file_generation_queue group by status") do
    counts[row.status] = row.n
  end
  return counts
end

describe("a worker", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8 } }
  end)

  after_each(function()
    world:close()
  end)

  it("works batch after batch until nothing waits", function()
    world:customers(20)
    local w = world:worker()
    assert.same({ completed = 20, failed = 0, lost = 0 }, assert(w:drain()))
    assert.same({ completed = 20 }, statuses(world))
    assert.same({ {}, {} }, { world:differences() })
    world:check_objects()
    assert.equal(0, w:release())
    assert.equal("released", world:value "select gone_reason from ate_workers")
  end)

  it("tells of each job, in the order of the queue", function()
    world:customers(3)
    local told = {}
    assert(world:worker({ on_event = function(event, job, artifact)
      told[#told + 1] = event .. " " .. job.device_hash
      assert.equal(event == "completed", type(artifact) == "table" and artifact.ate_file_id ~= nil)
    end }):drain())
    assert.equal("building D0001, building D0002, building D0003, completed D0001, completed D0002, completed D0003",
      table.concat(told, ", "))
  end)

  it("gives a sign of life before each build and each exchange, and while it waits for a lost database", function()
    world:customers(3)
    local building, since, turns, w = 0, 0, 0, nil
    local tries, waited = 0, 0
    w = world:worker {
      on_turn = function()
        since, turns = since + 1, turns + 1
        waited = waited + (tries > 0 and 1 or 0)
      end,
      on_event = function(event)
        if event == "building" then
          assert.is_true(since > 0)
          building, since = building + 1, 0
        end
      end,
      connect = function()
        tries = tries + 1
        if tries == 3 then
          w:stop()
        end
        return nil, "away", "connection"
      end }
    assert.equal(3, assert(w:drain()).completed)
    assert.equal(3, building)
    assert.is_true(turns >= 3 + 2)
    world:query("select pg_terminate_backend($1)", { w.queue.conn:backend_pid() })
    assert(w:serve())
    assert.is_true(waited >= 2)
  end)

  it("completes the urgent ones of a batch as soon as the store has them", function()
    world:customers(20)
    local store = setmetatable({ wait = function(_, ticket)
      return world.store:wait(ticket) -- a store that is as fast as the worker
    end }, { __index = function(_, name)
      return function(_, ...)
        return world.store[name](world.store, ...)
      end
    end })
    world:query [[update file_generation_queue q set priority = 1 from devices d
      where d.id = q.device_id and d.device_hash in ('D0003', 'D0006')]]
    world:query "update file_generation_queue set run_after = now() - interval '1 hour' where priority = 1"
    local told = {}
    local w = world:worker { store = store, on_event = function(event, job)
      told[#told + 1] = event .. " " .. job.device_hash
    end }
    assert.equal(20, assert(w:drain()).completed)
    assert.equal("building D0003, building D0006, building D0001, completed D0003, completed D0006",
      table.concat(told, ", ", 1, 5))
    assert.equal(1, world:value "select max(attempt) from file_generation_queue")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("told to stop, completes what is built and hands the rest back at no cost", function()
    world:customers(20)
    local w
    local built = 0
    w = world:worker { on_event = function(event)
      built = built + (event == "building" and 1 or 0)
      if built == 11 then
        w:stop()
      end
    end }
    assert.equal(11, assert(w:drain()).completed)
    assert.equal(5, assert(w:release()), "the rest of its second batch")
    assert.same({ completed = 11, queued = 9 }, statuses(world))
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    assert.equal(20, assert(world:worker():drain()).completed + 11)
    assert.same({ {}, {} }, { world:differences() })
  end)

  -- Ends its session amid the second build, and tells it to stop.
  local function cut_and_stopped(connect)
    world:customers(5)
    local w, built = nil, 0
    w = world:worker { connect = connect, on_event = function(event)
      built = built + (event == "building" and 1 or 0)
      if event == "building" and built == 2 then
        world:query("select pg_terminate_backend($1, 60000)", { w.queue.conn:backend_pid() })
        w:stop()
      end
    end }
    return w
  end

  it("told to stop while its session is lost, still finds the database, and hands its jobs back at no cost", function()
    world.config.drain_time = 600 -- however long this takes
    local tries = 0
    local w = cut_and_stopped(function()
      tries = tries + 1
      if tries < 3 then
        return nil, "away", "connection"
      end
      world.conns[#world.conns + 1] = assert(pg.connect(world.url))
      return world.conns[#world.conns]
    end)
    assert.equal(2, assert(w:serve()).completed)
    assert.equal(0, assert(w:release()), "all is handed back already")
    assert.equal(3, tries)
    assert.same({ completed = 2, queued = 3 }, statuses(world))
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("told to stop while its session is lost does not look for the database longer than it may take to drain", function()
    world.config.drain_time = 1
    local w = cut_and_stopped(function()
      return nil, "away", "connection"
    end)
    assert.equal(0, assert(w:serve()).completed)
    assert.equal(0, assert(w:release()))
  end)

  it("keeps a session that fails and is not lost, lest others take its jobs for a dead worker's", function()
    world:configure { worker_batch = 8, worker_lease = 600 } -- however long this takes
    world:customers(2)
    local let_go = world:hold_completions()
    local process = world:start("work", "--json")
    world:await(worlds.HELD)
    -- From here on nobody can open a session.
    local name = world.url:match "dbname=(%S+)"
    local admin <close> = assert(pg.connect((world.url:gsub("dbname=%S+", "dbname=postgres"))))
    assert(admin:exec(("alter database %s with allow_connections false"):format(name)))
    world:query "select pg_cancel_backend(backend_pid) from ate_workers"
    world:await(function()
      return process.errors():find("database failed", 1, true)
    end)
    for _ = 1, 20 do
      assert.equal(0, world:value "rescue_ate_generations()")
    end
    let_go()
    world:await "not exists (select from file_generation_queue where status <> 'completed')"
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    assert(admin:exec(("alter database %s with allow_connections true"):format(name)))
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
  end)

  it("whose lease was taken over loses that job and no other, and takes its object away", function()
    world:customers(5)
    local other = world:worker()
    local first
    local w = world:worker { on_event = function(event, job)
      if event == "building" and not first then
        first = job
      elseif event == "building" and first and job.device_hash == "D0005" then
        world:query("update file_generation_queue set lease_until = now() - interval '1 second' where id = $1::uuid",
          { first.queue_id })
        assert.equal(1, assert(other:drain()).completed)
      end
    end }
    assert.same({ completed = 4, failed = 0, lost = 1 }, assert(w:drain()))
    local job = world:jobs("d.device_hash = 'D0001'")[1]
    assert.equal(2, job.attempt)
    assert.equal(other.queue.id, job.worker_id)
    assert.same({ {}, {} }, { world:differences() })
    assert.equal(5, #world:keys())
    assert.equal("D0001", world:open("D0001")[1])
  end)

  it("whose job was called off throws the file away", function()
    world:customer "PHONE-1"
    local w = world:worker { on_event = function(event, job)
      if event == "building" then
        world:query("select cancel_ate_generation($1::uuid)", { job.queue_id })
      end
    end }
    assert.same({ completed = 0, failed = 0, lost = 1 }, assert(w:drain()))
    assert.equal("cancelled", world:jobs()[1].status)
    assert.same({}, world:keys())
  end)

  it("keeps what changed during a build for the next one", function()
    world:customer("PHONE-1", { plan = "starter" })
    local bought
    local w = world:worker { on_event = function(event)
      if event == "building" and not bought then
        bought = true
        world:query "update subscriptions set plan_id = 'max'"
      end
    end }
    assert.equal(2, assert(w:drain()).completed)
    assert.equal("max", select(2, world:open "PHONE-1").metadata.plan)
  end)

  it("outlives a job whose build raises", function()
    world:customers(3)
    -- A job as no claim gives it: the builder trips over it.
    local w = world:worker { on_event = function(event, spoilt)
      if event == "building" and spoilt.device_hash == "D0002" then
        spoilt.device_id = nil
      end
    end }
    assert.same({ completed = 2, failed = 1, lost = 0 }, assert(w:drain()))
    local job = world:jobs("d.device_hash = 'D0002'")[1]
    assert.equal("failed", job.status)
    assert.equal("internal", job.error_code)
  end)

  it("leaves memory and descriptors as they were after 500 jobs", function()
    world:customers(100)
    local w = world:worker()
    assert(w:drain())
    local function state()
      collectgarbage()
      collectgarbage()
      return collectgarbage "count", select(2, program.shell(("ls /proc/%d/fd | wc -l"):format(
        require("posix.unistd").getpid())))
    end
    local before, descriptors = state()
    for _ = 1, 5 do
      world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
      assert.equal(0, assert(w:drain()).failed)
    end
    assert.equal(600, w.queue.counts.completed)
    local after, now = state()
    assert.equal(descriptors, now)
    assert.is_true(after - before < 64, ("%.0f KiB more"):format(after - before))
  end)
end)

describe("a worker before a database that refuses", function()
  local world

  before_each(function()
    world = worlds.new()
    assert(world.conn:exec [[create sequence tries; create function refuse() returns trigger language plpgsql as $$
      begin
        if tg_argv[0] = 'once' and nextval('public.tries') <= tg_argv[1]::int then
          raise exception 'try again' using errcode = '40001';
        elsif tg_argv[0] = 'device' and new.device_id = (select d.id from public.devices d
            where d.device_hash = tg_argv[1]) then
          raise exception 'never this one' using errcode = '23514';
        end if;
        return new;
      end $$]])
  end)

  after_each(function()
    world:close()
  end)

  local function refuse(...)
    assert(world.conn:exec(("create trigger refuse before insert on ate_files for each row execute function refuse(%s)")
      :format("'" .. table.concat({ ... }, "', '") .. "'")))
  end

  it("tries a transaction again that another one stood in the way of", function()
    world:customers(3)
    refuse("once", 2)
    assert.equal(3, assert(world:worker():drain()).completed)
    assert.equal(1, world:value "select max(attempt) from file_generation_queue")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("gives up after some tries, takes the objects away, and hands the jobs back", function()
    world:customers(3)
    refuse("once", 1000)
    local w = world:worker()
    local counts, message, code = w:drain()
    assert.is_nil(counts)
    assert.equal("40001", code)
    assert.matches("try again", message)
    assert.equal(3, w:release())
    assert.same({}, world:keys())
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
  end)

  it("completes the others when it takes one for good", function()
    world:customers(4)
    refuse("device", "D0002")
    assert.same({ completed = 3, failed = 1, lost = 0 }, assert(world:worker():drain()))
    local job = world:jobs("d.device_hash = 'D0002'")[1]
    assert.equal("failed", job.status)
    assert.matches("never this one", job.error_message)
    assert.same({ {}, {} }, { world:differences() })
  end)

  -- A deadlock needs two that wait for each other. Postgres looks for one once in each wait: ours must still be ahead of its
  -- look when the other one begins to wait, and is then the one that is ended.
  it("survives a deadlock", function()
    world:customers(2)
    world:query(("alter database %s set deadlock_timeout = '10s'"):format(world.url:match "dbname=(%S+)"))
    assert(world:worker():drain())
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    local rival <close> = assert(pg.connect(world.url))
    assert(rival:exec "set deadlock_timeout = '120s'; begin; select 1 from ate_files for update")
    local process = world:start("work", "--once", "--json")
    world:await "exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%complete_ate%')"
    assert(rival:exec "select 1 from file_generation_queue order by id for update; commit")
    assert.equal(0, (process.wait()))
    local answer = json.decode(process.output())
    assert.equal(2, answer.completed)
    assert.same({ {}, {} }, { world:differences() })
  end)

  -- The real connection, cut between the commit and its answer.
  local function cut_amid_commit(conn)
    return setmetatable({}, { __index = function(_, name)
      return function(_, ...)
        local results = table.pack(conn[name](conn, ...))
        local statements = ...
        if name == "pipeline" and (statements[1].prepared or statements[1][1]):find "complete" then
          world:query("select pg_terminate_backend($1)", { conn:backend_pid() })
          results = table.pack(conn:pipeline(statements))
        end
        return table.unpack(results, 1, results.n)
      end
    end })
  end

  it("finds out whether a commit happened that it got no answer to", function()
    world:customers(2)
    local conn <close> = assert(pg.connect(world.url))
    local function connect()
      local fresh = assert(pg.connect(world.url))
      world.conns[#world.conns + 1] = fresh
      return fresh
    end
    local w = world:worker { conn = cut_amid_commit(conn), connect = connect }
    local counts, _, code = w:drain()
    assert.is_nil(counts)
    assert.equal("connection", code)
    assert.same({ completed = 2, failed = 0, lost = 0 }, w.queue.counts)
    assert.same({ {}, {} }, { world:differences() })
    assert.equal(2, #world:keys())
  end)

  it("leaves the object of such a commit alone when the database takes no offer any more", function()
    world:customers(2)
    local conn <close> = assert(pg.connect(world.url))
    local function connect()
      world:query "alter function complete_ate_batch(jsonb, boolean) rename to complete_otherwise"
      local fresh = assert(pg.connect(world.url))
      world.conns[#world.conns + 1] = fresh
      return fresh
    end
    assert.is_nil((world:worker({ conn = cut_amid_commit(conn), connect = connect }):drain()))
    assert.equal(2, world:value "select count(*) from ate_files")
    assert.same({ {}, {} }, { world:differences() })
  end)
end)

describe("a worker before a store that refuses", function()
  local world, mount

  before_each(function()
    world = worlds.new()
    mount = program.folder()
  end)

  after_each(function()
    if world.small then
      world.small:close()
    end
    program.shell("umount " .. mount)
    program.remove(mount)
    world:close()
  end)

  local function small_store(size)
    assert(os.execute(("mount -t tmpfs -o size=%s tmpfs %s"):format(size, mount)))
    world.small = assert(storage.open { storage_dir = mount, storage_threads = 4 })
    return world.small
  end

  local function all_files()
    return select(2, program.shell(("find %s -type f -printf '%%P\\n' | sort"):format(mount)))
  end

  it("puts off what a full disk has no room for, and finishes it when there is room", function()
    world:template { manifest = { version = "2.0.0" },
      prepare = function(folder)
        worlds.write(folder .. "/follow.lua", ("-- %s\n"):format(require("atelier.crypto").hex(
          require("atelier.crypto").random(40000))))
      end }
    world:customers(6)
    local store = small_store "160k"
    local counts = assert(world:worker({ store = store }):drain())
    assert.is_true(counts.completed >= 1 and counts.failed >= 1)
    -- One whose turn comes again at once may have been tried twice by now.
    local left = world:jobs "q.status <> 'completed'"
    assert.equal(6, counts.completed + #left)
    for _, job in ipairs(left) do
      assert.equal("queued", job.status)
      assert.is_true(job.retry_count >= 1)
      assert.equal("full", job.error_code)
      assert.matches("No space left on device", job.error_message)
    end
    assert.equal(counts.completed, select(2, all_files():gsub("\n", "")), "whole files only")
    assert.equal(counts.completed, world:value "select count(*)::int from ate_files")
    assert(os.execute("mount -o remount,size=4m " .. mount))
    world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    assert.equal(#left, assert(world:worker({ store = store }):drain()).completed)
    assert.equal(6, select(2, all_files():gsub("\n", "")))
  end)

  it("puts off what a read-only store refuses, later each time, and ends after the last retry", function()
    world:customer "PHONE-1"
    local store = small_store "1m"
    assert(os.execute("mount -o remount,ro " .. mount))
    for run = 1, 4 do
      assert.equal(1, assert(world:worker({ store = store }):drain()).failed)
      local job = world:jobs()[1]
      assert.equal(run, job.attempt)
      assert.equal("read_only", job.error_code)
      assert.equal(run < 4 and "queued" or "failed", job.status)
      assert.equal(math.min(run, 3), job.retry_count)
      world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    end
    assert.equal(0, assert(world:worker({ store = store }):drain()).failed, "no fifth run")
    local code, answer = program.run({ "queue", "retry", world:jobs()[1].id, "--json" }, world.env)
    assert.equal(0, code, answer)
    assert(os.execute("mount -o remount,rw " .. mount))
    assert.equal(1, assert(world:worker({ store = store }):drain()).completed)
  end)

  it("leaves nothing of a large file that found no room", function()
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("truncate -s 3M %s/a.mp4"):format(folder)))
      end }
    world:customer "PHONE-1"
    for _, size in ipairs { "1m", "2m" } do
      local store = small_store(size)
      assert.equal(1, assert(world:worker({ store = store }):drain()).failed)
      local job = world:jobs()[1]
      assert.equal("queued", job.status)
      assert.matches("No space left on device", job.error_message, 1, true)
      assert.equal("", all_files())
      store:close()
      assert(os.execute("umount " .. mount))
      world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    end
    world.small = nil
  end)
end)
