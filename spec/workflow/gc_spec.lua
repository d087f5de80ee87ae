local contract = require "spec.storage.contract"
local gc = require "workflow.gc"
local json = require "atelier.json"
local unistd = require "posix.unistd"
local utime = require "posix.utime"
local worlds = require "spec.workflow.support.world"

describe("workflow.gc", function()
  local world

  before_each(function()
    world = worlds.new()
    world:customers(4)
    assert.equal(4, assert(world:worker():drain()).completed)
  end)

  after_each(function()
    world:close()
  end)

  local function run(options)
    options = options or {}
    return gc.run { store = world.store, config = world.config, grace = 600, dry_run = options.dry_run, force = options.force,
      on_read = options.on_read, pause = options.pause,
      ask = function(sql, params) return world.conn:query(sql, params) end }
  end

  -- One orphan old enough to go and one that is not, one object gone, one cut short.
  local function disorder()
    for name, age in pairs { old = 7200, young = 10 } do
      local key = ("generated/GONE/%s.ate"):format(name)
      assert.is_true(contract.put(world.store, key, { "bytes" }))
      utime.utime(world.store.root .. "/" .. key, os.time() - age, os.time() - age)
    end
    world.store:delete { world:file("D0001").file_path }
    local file = assert(io.open(world.store.root .. "/" .. world:file("D0002").file_path, "w"))
    file:write "short"
    file:close()
    return { world:file("D0001").file_path, world:file("D0002").file_path }
  end

  local function sorted(list)
    table.sort(list)
    return list
  end

  it("finds nothing where all is well", function()
    local result = assert(run())
    assert.same({ 0, 0 }, { #result.orphans, #result.missing })
    assert.equal(4, #world:keys())
  end)

  it("counts the requests that it makes, so that its pace is that of the store", function()
    local function counted(dry_run)
      local total = 0
      assert(run { dry_run = dry_run, pause = function(requests)
        total = total + requests
      end })
      return total
    end
    local pages = counted() - 4 -- four files are looked for
    assert.is_true(pages >= 2 and pages <= 6, tostring(pages))
    disorder()
    assert.equal(pages + 4, counted(true))
    assert.is_true(counted() >= 200)
  end)

  it("tells what it would do, and does it when told to", function()
    local lost = sorted(disorder())
    for _, dry_run in ipairs { true, true, false } do
      local result = assert(run { dry_run = dry_run })
      assert.same({ "generated/GONE/old.ate" }, result.orphans)
      assert.same(lost, sorted(result.missing))
      assert.same(lost, sorted(result.requeued))
      assert.equal(dry_run and 0 or 2, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
    end
    assert.equal("not_found", select(3, world.store:head "generated/GONE/old.ate"))
    assert.equal(5, (world.store:head "generated/GONE/young.ate").size)
    world:worker():drain()
    world:open "D0001"
    world:open "D0002"
    local result = assert(run())
    assert.same({ 0, 0 }, { #result.orphans, #result.missing })
  end)

  it("tells what is not built anew since its device may not have it, in a dry run as in a real one", function()
    local lost = disorder()
    world:query("update licenses set is_valid = false where device_id = (select id from devices where device_hash = 'D0002')")
    for _, dry_run in ipairs { true, false } do
      local result = assert(run { dry_run = dry_run })
      assert.same(sorted { lost[1], lost[2] }, sorted(result.missing))
      assert.same({ lost[1] }, result.requeued)
      assert.same({ { key = lost[2], reason = "licence_invalid" } }, result.not_entitled)
      assert.equal(dry_run and 0 or 1, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
    end
    world:worker():drain()
    local result = assert(run())
    assert.same({ 0, 0, 0 }, { #result.missing, #result.requeued, #result.not_entitled })
  end)

  it("leaves a store alone that seems to be another database's, unless forced", function()
    for i = 1, 110 do
      local key = ("generated/GONE/%d.ate"):format(i)
      assert.is_true(contract.put(world.store, key, { "bytes" }))
      utime.utime(world.store.root .. "/" .. key, os.time() - 7200, os.time() - 7200)
    end
    assert.equal(0, #assert(run()).orphans)
    assert.equal(114, #world:keys())
    assert.equal(110, #assert(run { force = true }).orphans)
    assert.equal(4, #world:keys())
  end)

  it("finds a changed byte by reading, when told to, and has that file built anew", function()
    local path = world.store.root .. "/" .. world:file("D0003").file_path
    local file = assert(io.open(path, "r+b"))
    file:seek("set", 200)
    local byte = file:read(1)
    file:seek("set", 200)
    file:write(string.char(byte:byte() ~ 1))
    file:close()
    assert.same({}, assert(run()).missing)
    for _, dry_run in ipairs { true, false } do
      local bytes = 0
      local result = assert(run { dry_run = dry_run, on_read = function(n) bytes = bytes + n end })
      assert.same({ world:file("D0003").file_path }, result.missing)
      assert.same(result.missing, result.requeued)
      assert.equal(4, result.verified)
      assert.equal(world:value "select sum(file_size_bytes)::int from ate_files", bytes)
      assert.equal(dry_run and 0 or 1, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
    end
    world:worker():drain()
    world:open "D0003"
    assert.same({}, assert(run { on_read = function() end }).missing)
  end)

  it("does not take what it may not read for damaged", function()
    local path = world.store.root .. "/" .. world:file("D0002").file_path
    assert(os.remove(path))
    assert(unistd.link(path, path, true)) -- leads to itself: it cannot be opened, and that is no news of its bytes
    local none, message, code = run { on_read = function() end }
    assert.is_nil(none)
    assert.matches("D0002", message)
    assert.equal("io", code)
    assert.equal(0, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
  end)

  it("reads with the command, too, and says so", function()
    local path = world.store.root .. "/" .. world:file("D0001").file_path
    local size = world:file("D0001").file_size_bytes
    assert(os.execute(("head -c %d /dev/zero >'%s'"):format(size, path)))
    local process = world:start("gc", "--verify", "--json", "--read-rate", "1000")
    assert.equal(0, process.wait(), process.errors())
    local result = assert(json.decode(process.output()))
    assert.equal(4, result.verified)
    assert.same({ world:file("D0001").file_path }, result.requeued)
    process = world:start("gc", "--verify", "--dry-run")
    assert.equal(0, process.wait(), process.errors())
    assert.matches("would be built anew: generated/D0001/", process.output(), 1, true)
    assert.matches("the bytes of 4 files were read", process.output(), 1, true)
    process = world:start("gc", "--verify", "--read-rate", "0")
    assert.equal(2, process.wait())
  end)

  it("says that the store cannot be listed", function()
    assert(os.execute(("rm -r '%s' && touch '%s'"):format(world.store.root, world.store.root)))
    local none, message, code = run()
    assert.is_nil(none)
    assert.matches("storage: list: ", message, 1, true)
    assert.equal("io", code)
  end)
end)
