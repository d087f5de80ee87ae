-- The keeper over a real database and a real store: each of its sweeps, and what stands in its way.
local json = require "atelier.json"
local keeper = require "workflow.keeper"
local pg = require "atelier.pg"
local program = require "spec.support.program"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local storage = require "storage"
local unistd = require "posix.unistd"
local utime = require "posix.utime"
local utsname = require "posix.sys.utsname"
local worlds = require "spec.workflow.support.world"

local DAY = 86400
local LOCKS = [[pg_locks where locktype = 'advisory' and database = (select oid from pg_database
  where datname = current_database()) and classid::bigint << 32 | objid::bigint = hashtextextended('atelier keeper', 0)]]

describe("the keeper", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8 } }
  end)

  after_each(function()
    world:close()
  end)

  -- A keeper in this process, on a connection of its own.
  local function new_keeper(options)
    options = options or {}
    options.conn = options.conn or assert(pg.connect(world.url))
    world.conns[#world.conns + 1] = options.conn
    options.store, options.config = options.store or world.store, options.config or world.config
    options.settle = options.settle or 0
    return keeper.new(options), options.conn
  end

  -- What a round did, without what it did not do.
  local function round(k)
    local done = {}
    for name, count in pairs(assert(k:round())) do
      if count ~= 0 and count ~= false then
        done[name] = count
      end
    end
    return done
  end

  local function build(count)
    world:customers(count)
    assert.equal(count, assert(world:worker():drain()).completed)
  end

  local function put(key, age)
    assert(world.store:wait(assert(world.store:put(key, { "object" }))))
    if age then
      local at = os.time() - age
      assert(utime.utime(world.store.root .. "/" .. key, at, at))
    end
    return key
  end

  local function artifact(device, n)
    return ("generated/%s/tools_%08x-0000-4000-8000-000000000000.ate"):format(device, n or 1)
  end

  local function count(sql)
    return world:value("select count(*)::int from " .. sql)
  end

  it("finds nothing to do where all is well", function()
    build(3)
    local k = new_keeper()
    for _ = 1, 3 do
      assert.same({}, round(k))
    end
    assert.same({ {}, {} }, { world:differences() })
  end)

  -- ==== rows ====

  it("ends files whose time is over, and rescues jobs whose lease is", function()
    build(2)
    world:query "update ate_files set expires_at = now() - interval '1 second'"
    world:query "select queue_ate_generation('D0001', 'tools')"
    world:query [[update file_generation_queue set status = 'processing', worker_id = 'gone', attempt = 1,
      lease_until = now() - interval '1 second' where status = 'queued']]
    assert.same({ expired = 2, rescued = 1 }, round(new_keeper()))
    assert.equal(0, count "ate_files where is_active")
    assert.equal(1, count "file_generation_queue where status = 'queued'")
  end)

  it("trims the queue, its history, the downloads and the list of workers, so many at once", function()
    build(25)
    world:query [[select log_download(f.id, '10.0.0.1', 'spec', 1) from ate_files f]]
    world:query "update download_history set created_at = now() - interval '366 days'"
    world:query "update file_generation_queue set finished_at = now() - interval '25 hours'"
    world:query [[insert into ate_workers (worker_id, last_seen) select 'w' || i, now() - interval '2 days'
      from generate_series(1, 12) i]]
    world:query [[insert into ate_workers (worker_id, last_seen) values ('young', now())]]
    local k = new_keeper { batch = 10, batches = 2 }
    assert.same({ moved = 20, downloads = 20, workers = 12, more = true }, round(k))
    assert.same({ moved = 5, downloads = 5 }, round(k))
    assert.equal(25, count "file_generation_history")
    world:query "update file_generation_history set finished_at = now() - interval '91 days'"
    assert.same({ trimmed = 20, more = true }, round(k))
    assert.same({ trimmed = 5 }, round(k))
    assert.equal(1, count "ate_workers where worker_id = 'young'")
    assert.equal(25, world:value "select sum(download_count)::int from ate_files", "the count goes on")
  end)

  it("gives downloads of before they had a user to whose they are", function()
    build(5)
    world:query [[select log_download(f.id, '10.0.0.1', 'spec', 1) from ate_files f]]
    world:query "insert into auth.users (id) values ('00000000-0000-0000-0000-0000000000f1')"
    world:query "update devices set user_id = '00000000-0000-0000-0000-0000000000f1'"
    world:query "update download_history set user_id = null"
    local k = new_keeper { batch = 2, batches = 1 }
    assert.same({ given = 2, more = true }, round(k))
    assert.same({ given = 2, more = true }, round(k))
    assert.same({ given = 1 }, round(k))
    assert.equal(5, count "download_history h join devices d on d.id = h.device_id and d.user_id = h.user_id")
    assert.same({}, round(k))
  end)

  it("lives to be seen during a long round, too", function()
    build(8)
    world:query "update file_generation_queue set finished_at = now() - interval '25 hours'"
    local ticks = 0
    local k = new_keeper { batch = 1, batches = 8, on_tick = function() ticks = ticks + 1 end }
    assert.equal(8, assert(k:round()).moved)
    assert.is_true(ticks > 8, ticks .. " ticks")
  end)

  it("deletes the bytes of former versions when their grace is over, and then says so", function()
    build(12)
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    assert.equal(12, assert(world:worker():drain()).completed)
    local k = new_keeper { batch = 5, batches = 1 }
    assert.same({}, round(k))
    assert.equal(24, #world:keys())
    world:query "update ate_file_versions set retired_at = now() - interval '8 days'"
    assert.same({ purged = 5, more = true }, round(k))
    assert.same({ purged = 5, more = true }, round(k))
    assert.same({ purged = 2 }, round(k))
    assert.equal(12, #world:keys())
    assert.equal(12, count "ate_file_versions where purged_at is not null")
    world:check_objects()
    assert.equal("D0007", world:open("D0007")[1])
  end)

  it("deletes the bytes of expired files, keeps the row, and a renewal builds them anew", function()
    build(3)
    local before = world:file("D0002").id
    world:query "update ate_files set expires_at = now() - interval '6 days'"
    world:query "update licenses set expires_at = now() - interval '6 days'"
    local k = new_keeper()
    assert.same({ expired = 3 }, round(k))
    assert.equal(3, #world:keys())
    world:query [[update ate_files f set expires_at = now() - interval '8 days' from devices d
      where d.id = f.device_id and d.device_hash <> 'D0003']]
    assert.same({ emptied = 2 }, round(k))
    assert.same({}, round(k))
    assert.equal(1, #world:keys())
    assert.equal(3, count "ate_files")
    world:query [[update licenses l set expires_at = now() + interval '1 day' from devices d
      where d.id = l.device_id and d.device_hash = 'D0002']]
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal("D0002", world:open("D0002")[1])
    assert.equal(before, world:file("D0002").id)
    assert.same({}, round(k))
    -- The former object is a version now, whose bytes are gone: deleting them once more does no harm.
    world:query "update ate_file_versions set retired_at = now() - interval '8 days'"
    assert.same({ purged = 1 }, round(k))
    assert.equal(2, #world:keys())
  end)

  it("marks no file as empty that got another object meanwhile", function()
    build(1)
    local file = world:file "D0001"
    world:query("select mark_ate_files_purged($1::uuid[], $2::text[])", { pg.array { file.id }, pg.array { "other" } })
    assert.equal(json.null, world:file("D0001").purged_path)
  end)

  -- ==== objects without a row ====

  it("deletes objects that no row names, when they are old enough and were met before", function()
    build(2)
    put(artifact "D0001", DAY + 60)
    put(artifact "nobody", DAY + 60)
    put(artifact("nobody", 2), DAY - 600)
    put("generated/README.ate", DAY + 60)
    put("other/thing", 10 * DAY)
    local k = new_keeper()
    assert.same({}, round(k), "met for the first time")
    assert.same({ orphans = 3 }, round(k))
    assert.same({}, round(k))
    local orphans = world:differences()
    table.sort(orphans)
    assert.same({ artifact("nobody", 2), "other/thing" }, orphans)
    assert.equal("D0001", world:open("D0001")[1])
  end)

  it("takes nobody's word for an object's age alone: it is met twice, so far apart", function()
    put(artifact "D0001", 1000 * DAY)
    local k = new_keeper { settle = 3600 }
    for _ = 1, 4 do
      assert.same({}, round(k))
    end
    assert.equal(1, #world:keys())
  end)

  it("keeps an object from the future until it has been met for the whole grace", function()
    put(artifact "D0001", -30 * DAY)
    world.config.orphan_grace = 1
    local k = new_keeper()
    assert.same({}, round(k))
    assert.equal(1, #world:keys())
    local deleted = 0
    world:await(function()
      deleted = deleted + (round(k).orphans or 0)
      return deleted == 1
    end, 60)
    assert.same({}, world:keys())
  end)

  it("finds the row of an object whose device has another hash by now", function()
    build(1)
    world:query "update devices set device_hash = 'RENAMED'"
    world:query "delete from file_generation_queue where status = 'queued'"
    assert(utime.utime(world.store.root .. "/" .. world:keys()[1], 0, 0))
    local k = new_keeper()
    for _ = 1, 3 do
      assert.same({}, round(k))
    end
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("leaves an object alone that gets its row between two looks", function()
    build(1)
    local key = put(artifact "D0001", 2 * DAY)
    local k = new_keeper()
    assert.same({}, round(k))
    world:query("update ate_files set file_path = $1", { key })
    round(k)
    assert(world.store:head(key))
  end)

  it("deletes nothing from a store that is rather another database's", function()
    for i = 1, 101 do
      put(artifact(("X%03d"):format(i)), 2 * DAY)
    end
    local k = new_keeper()
    for _ = 1, 3 do
      assert.same({}, round(k))
    end
    assert.equal(101, #world:keys())
    build(11)
    assert.same({}, round(k), "judged by the last whole pass")
    assert.equal(101, round(k).orphans)
    assert.equal(11, #world:keys())
  end)

  it("goes through 10,000 objects page by page, some in a round, and on from there", function()
    build(2)
    local named = world:keys()[1]
    local script = [[cd %s; for d in $(seq 100); do mkdir -p generated/Y$d; for n in $(seq 100); do
      : >generated/Y$d/tools_$(printf %%08x $((d * 100 + n)))-0000-4000-8000-000000000000.ate; done; done
      find generated/Y* -type f -exec touch -d '3 days ago' {} +]]
    assert.equal(0, (program.shell(script:format(world.store.root))))
    -- A third of them have rows: former versions.
    world:query [[insert into ate_file_versions (ate_file_id, device_id, template_id, artifact_id, generation, container,
        filename, file_path, file_size_bytes, checksum, encryption_key_hash, created_at)
      select f.id, f.device_id, f.template_id, gen_random_uuid(), 1, 'ate1', 'x', 'generated/Y' || d || '/tools_'
          || lpad(to_hex(d * 100 + n), 8, '0') || '-0000-4000-8000-000000000000.ate', 1, f.checksum, f.checksum, now()
      from (select * from ate_files limit 1) f, generate_series(1, 33) d, generate_series(1, 100) n]]
    local k = new_keeper { batches = 3 }
    local deleted, rounds = 0, 0
    while deleted < 6700 do
      local done = round(k)
      assert.is_true((done.orphans or 0) <= 3000)
      deleted, rounds = deleted + (done.orphans or 0), rounds + 1
      assert.is_true(rounds < 20)
    end
    assert.equal(6700, deleted)
    assert.is_true(rounds >= 4 + 3)
    assert.equal(3302, #world:keys())
    assert(world.store:head(named))
    local orphans = world:differences()
    assert.same({}, orphans)
  end)

  it("removes what dead writers left, and nothing that may be in use", function()
    local root = world.store.root
    assert(os.execute("mkdir -p " .. root .. "/generated/D1"))
    for name, age in pairs { [".1.2.tmp"] = DAY + 60, [".1.3.tmp"] = 60, [".mine"] = 9 * DAY } do
      local path = root .. "/generated/D1/" .. name
      worlds.write(path, "part")
      utime.utime(path, os.time() - age, os.time() - age)
    end
    local staging, node = world.store:staging(), utsname.uname().nodename
    local dead = tonumber((select(2, program.shell "sh -c 'echo $$'")))
    local folders = { dead = ("%s@%d.a"):format(node, dead), mine = ("%s@%d.b"):format(node, unistd.getpid()),
      young = "elsewhere@1.c", old = "elsewhere@2.d" }
    for name, folder in pairs(folders) do
      assert(stat.mkdir(staging .. "/" .. folder))
      worlds.write(staging .. "/" .. folder .. "/bundle.zip", "part")
      if name == "old" then
        utime.utime(staging .. "/" .. folder .. "/bundle.zip", 0, 0)
        utime.utime(staging .. "/" .. folder, 0, 0)
      end
    end
    for _, name in ipairs { ("%s@%d.copy-1"):format(node, dead), ("%s@%d.copy-1"):format(node, unistd.getpid()) } do
      worlds.write(staging .. "/" .. name, "part")
    end
    assert.same({ staging = 3, unfinished = 1 }, round(new_keeper()))
    assert.is_nil(stat.stat(("%s/%s@%d.copy-1"):format(staging, node, dead)))
    assert.is_not_nil(stat.stat(storage.draft(staging, "copy-1")))
    local left = select(2, program.shell(("cd %s; find . -name bundle.zip -o -name '.*.tmp' -o -name .mine | sort")
      :format(root)))
    assert.equal(("./.staging/%s/bundle.zip\n./.staging/%s/bundle.zip\n./generated/D1/.1.3.tmp\n./generated/D1/.mine\n")
      :format(folders.young, folders.mine), left)
  end)

  -- ==== rows without an object ====

  it("builds a missing object anew where the device is entitled, and notes it as gone elsewhere", function()
    build(6)
    world:query "update file_generation_queue set created_at = created_at - interval '2 hours'"
    local gone = {}
    for i, hash in ipairs { "D0002", "D0005" } do
      gone[i] = world:file(hash).file_path
    end
    assert.equal(2, world.store:delete(gone))
    world:query [[update subscriptions s set status = 'cancelled' from devices d
      where d.id = s.device_id and d.device_hash = 'D0005']]
    local k = new_keeper { heads = 4 }
    local missing = (round(k).missing or 0) + (round(k).missing or 0)
    assert.equal(2, missing)
    assert.equal(1, count "file_generation_queue where status = 'queued' and reason = 'missing'")
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal("D0002", world:open("D0002")[1])
    assert.equal(gone[2], world:file("D0005").purged_path)
    for _ = 1, 3 do
      assert.same({}, round(k))
    end
  end)

  -- ==== what nothing else queues ====

  it("queues a younger device's file when the older one before it has ended", function()
    local user = "00000000-0000-0000-0000-000000000001"
    world:query("insert into auth.users (id) values ($1::uuid)", { user })
    for i, hash in ipairs { "OLD", "YOUNG" } do
      local id = world:query([[insert into devices (user_id, device_hash, device_model, status, created_at)
        values ($1::uuid, $2, 'phone', 'active', now() + $3::int * interval '1 second') returning id::text as id]],
        { user, hash, i })[1].id
      world:query("insert into licenses (device_id, is_valid) values ($1::uuid, true)", { id })
      world:query("insert into subscriptions (device_id, status, plan_id) values ($1::uuid, 'active', 'starter')", { id })
    end
    world:query "update file_generation_queue set run_after = now()" -- the parts of a purchase may be seconds apart
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal("too_many_devices", world:jobs("d.device_hash = 'YOUNG'")[1].error_code)
    local k = new_keeper()
    assert.same({}, round(k))
    world:query "update devices set status = 'suspended' where device_hash = 'OLD'"
    assert.same({ renewed = 1 }, round(k))
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal("YOUNG", world:open("YOUNG")[1])
    assert.same({}, round(k))
  end)

  it("builds anew what lost its tools or its master key, once, and nothing that failed for good", function()
    build(4)
    world:query "update file_generation_queue set created_at = created_at - interval '2 hours'"
    local k = new_keeper { batch = 3 }
    assert.same({}, round(k))
    world:query [[update plans set tools = '["timeline"]' where name = 'pro']]
    world:query [[update file_generation_queue q set status = 'failed', error_code = 'error' from devices d
      where d.id = q.device_id and d.device_hash = 'D0001']]
    assert.same({ renewed = 3 }, round(k))
    assert.equal(3, assert(world:worker():drain()).completed)
    assert.same({}, round(k))
    assert(world.ring:rotate { master = true })
    assert.same({}, round(k), "their jobs are too young")
    world:query "update file_generation_queue set created_at = created_at - interval '2 hours'"
    assert.same({ renewed = 3 }, round(k))
    assert.equal(3, assert(world:worker():drain()).completed)
    assert.same({}, round(k))
  end)

  it("asks for nothing that nobody asked for", function()
    build(2)
    world:query "delete from file_generation_queue"
    world:query "delete from ate_files where device_id = (select id from devices where device_hash = 'D0001')"
    assert.same({}, round(new_keeper()))
  end)

  -- ==== several, and bad days ====

  it("does nothing while another one is at work, and takes over when that one ends", function()
    build(1)
    world:query "update ate_files set expires_at = now() - interval '1 second'"
    local first, conn = new_keeper()
    local second = new_keeper()
    assert.same({ expired = 1 }, round(first))
    world:query "update ate_files set is_active = true"
    assert.same({ busy = true }, round(second))
    assert.equal(1, count "ate_files where is_active")
    conn:close()
    local taken
    world:await(function()
      taken = round(second)
      return not taken.busy
    end, 60)
    assert.same({ expired = 1 }, taken)
    second:release()
    assert.same({}, round((new_keeper())))
  end)

  it("goes on with the other parts when one of them fails", function()
    build(1)
    world:query "update ate_files set expires_at = now() - interval '1 second'"
    world:query "alter function trim_ate_history(integer, interval) rename to trim_otherwise"
    assert.same({ expired = 1, failed = 1 }, round(new_keeper()))
  end)

  it("marks nothing that a store has not deleted", function()
    build(3)
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    assert(world:worker():drain())
    world:query "update ate_file_versions set retired_at = now() - interval '8 days'"
    local mount = program.folder()
    program.mount(mount, "size=1m")
    local store = assert(storage.open { storage_dir = mount, storage_threads = 1 })
    finally(function()
      store:close()
      program.unmount(mount)
      program.remove(mount)
    end)
    assert(os.execute(("cp -r %s/generated %s/"):format(world.store.root, mount)))
    program.mount(mount, "remount,ro")
    local k = new_keeper { store = store }
    assert.same({}, round(k))
    assert.equal(0, count "ate_file_versions where purged_at is not null")
    program.mount(mount, "remount,rw")
    -- One that resists (a folder in its place) does not keep the others.
    local path = world:query("select file_path from ate_file_versions limit 1")[1].file_path
    assert(os.execute(("rm %s/%s; mkdir %s/%s"):format(mount, path, mount, path)))
    assert.same({ purged = 2 }, round(k))
    assert.equal(1, count "ate_file_versions where purged_at is null")
  end)

  it("says that the database is gone, and serves on when it is back", function()
    build(1)
    local k, conn = new_keeper()
    world:query("select pg_terminate_backend($1)", { conn:backend_pid() })
    local counts, _, code = k:round()
    assert.is_nil(counts)
    assert.equal("connection", code)
    local tries = 0
    k.connect = function()
      tries = tries + 1
      if tries == 1 then
        return nil, "not yet", "connection"
      end
      world:query "update ate_files set expires_at = now() - interval '1 second'"
      local fresh = assert(pg.connect(world.url))
      world.conns[#world.conns + 1] = fresh
      return fresh
    end
    k.on_tick = function()
      if tries == 2 and count "ate_files where is_active" == 0 then
        k:stop()
      end
    end
    assert.is_true(k:serve())
    assert.equal(2, tries)
    assert.equal(0, count "ate_files where is_active")
    assert.equal(0, count(LOCKS))
  end)
end)

describe("keepers as processes", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8 } }
  end)

  after_each(function()
    world:close()
  end)

  local SCRIPT = [[
    local config, keeper, pg, storage = require "config", require "workflow.keeper", require "atelier.pg", require "storage"
    local c = assert(config.load())
    require("log").configure { level = c.log_level }
    local conn, store = assert(pg.connect(c.database_url)), assert(storage.open(c))
    local k = keeper.new { conn = conn, store = store, config = c, settle = 0, batch = 10, batches = 3 }
    require("posix.signal").signal(require("posix.signal").SIGTERM, function() k:stop() end)
    assert(k:serve())
    store:close()
    conn:close()
  ]]

  local function start()
    worlds.write(world.dir .. "/keeper.lua", SCRIPT)
    world.env.ATELIER_STORAGE = world.store.root
    return world:start("run", world.dir .. "/keeper.lua")
  end

  local function retire(n)
    world:customers(n)
    assert(world:worker():drain())
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    assert(world:worker():drain())
    world:query "update ate_file_versions set retired_at = now() - interval '8 days'"
  end

  local ALL_PURGED = "not exists (select from ate_file_versions where purged_at is null)"
  local ONE_LOCK, NO_LOCK = "(select count(*) = 1 from " .. LOCKS .. ")", "not exists (select from " .. LOCKS .. ")"

  it("two at once share nothing but the lock, and end when told to", function()
    world:configure { worker_batch = 8, keeper_interval = 0.1 }
    retire(40)
    local one, two = start(), start()
    world:await(ALL_PURGED, 60)
    world:await(ONE_LOCK, 60)
    assert.equal(40, #world:keys())
    for _, process in ipairs { one, two } do
      process.kill(signal.SIGTERM)
      assert.equal(0, (process.wait()), process.errors())
      assert.equal("", process.errors())
    end
    assert.equal(0, world:value("select count(*)::int from " .. LOCKS))
    world:check_objects()
  end)

  it("one is killed between deletion and mark: the next one finishes", function()
    world:configure { worker_batch = 8, keeper_interval = 0.1 }
    retire(25)
    -- The mark waits for this lock: the bytes are gone by then.
    local held <close> = assert(pg.connect(world.url))
    assert(held:exec "begin; lock table ate_file_versions in exclusive mode")
    local process = start()
    world:await("exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%mark_ate_purged%')",
      60)
    process.kill(signal.SIGKILL)
    process.wait()
    assert.equal(40, #world:keys(), "ten were deleted")
    -- The server would finish its statement for the dead: it must not.
    world:query [[select pg_terminate_backend(pid) from pg_stat_activity where query like '%mark_ate_purged%'
      and pid <> pg_backend_pid()]]
    world:await(NO_LOCK, 60)
    assert(held:exec "rollback")
    assert.equal(25, world:value "select count(*)::int from ate_file_versions where purged_at is null")
    local other = start()
    world:await(ALL_PURGED, 60)
    other.kill(signal.SIGTERM)
    assert.equal(0, (other.wait()))
    assert.equal(25, #world:keys())
    world:check_objects()
  end)
end)
