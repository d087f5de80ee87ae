-- Several hosts over one database and one store: one of them dies, or is cut off and comes back.
local json = require "atelier.json"
local postgres = require "spec.support.postgres"
local signal = require "posix.signal"
local worlds = require "spec.workflow.support.world"

local PATIENCE = 60

describe("of two workers", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8, worker_lease = 2, database_timeout = 120 } }
  end)

  after_each(function()
    world:close()
  end)

  local function exists(name)
    return function()
      local file = io.open(world.dir .. "/" .. name)
      return file and file:close() or false
    end
  end

  -- A worker on another host, behind a network that fails when it completes its first job. Gives what repairs that.
  local function far_worker()
    local socket = postgres.host() .. "/.s.PGSQL.5432"
    world:start("run", "spec/workflow/support/relay.lua", world.dir, socket, "generated/")
    world:await(exists "port", PATIENCE)
    local near = world.env.DATABASE_URL
    local port = io.open(world.dir .. "/port"):read "a"
    world.env.DATABASE_URL = near:gsub("host=%S+", "host=127.0.0.1 port=" .. port)
    local process = world:start("work", "--json")
    world.env.DATABASE_URL = near
    return process, function()
      worlds.write(world.dir .. "/gate", "")
    end
  end

  it("one is cut off with a job in hand: the other one does it, and what the first says when it is back changes nothing",
    function()
      world:customer "PHONE-1"
      local far, repair = far_worker()
      world:await(exists "cut", PATIENCE)
      local near = world:start("work", "--json")
      world:await("(select status = 'completed' from file_generation_queue)", PATIENCE)
      local job, file = world:jobs()[1], world:file "PHONE-1"
      assert.equal(2, job.attempt)
      assert.equal(1, job.retry_count)
      assert.equal(2, #world:keys(), "the far one has stored its file")
      assert.equal(0, world:value "select count(*)::int from ate_workers where gone_at is not null")
      repair()
      world:await(function()
        return #world:keys() == 1
      end, PATIENCE)
      assert.same({ {}, {} }, { world:differences() })
      assert.same(job, world:jobs()[1])
      assert.equal(file.file_path, world:file("PHONE-1").file_path)
      assert.equal(0, world:value "select count(*)::int from ate_file_versions")
      assert.equal("PHONE-1", world:open("PHONE-1")[1])
      near.kill(signal.SIGTERM)
      assert.equal(0, (near.wait()))
      -- It is as good as any other.
      world:query "select queue_ate_generation('PHONE-1', 'tools')"
      world:await("not exists (select from file_generation_queue where status <> 'completed')", PATIENCE)
      far.kill(signal.SIGTERM)
      assert.equal(0, (far.wait()))
      local done = json.decode(far.output())
      assert.equal(1, done.completed)
      assert.equal(1, done.lost)
      assert.equal(2, world:file("PHONE-1").generation)
      world:check_objects()
    end)

  it("one is killed: the other one, which nobody calls, does its jobs", function()
    world:configure { worker_batch = 8 } -- no lease ends meanwhile
    world:customers(3)
    local let_go = world:hold_completions()
    local first = world:start "work"
    world:await(worlds.HELD, PATIENCE)
    local second = world:start("work", "--json")
    world:await("(select count(*) = 2 from ate_workers)", PATIENCE)
    first.kill(signal.SIGKILL)
    first.wait()
    -- The server would finish the statement for the dead.
    world:query [[select pg_terminate_backend(w.backend_pid) from ate_workers w
      where w.worker_id in (select worker_id from file_generation_queue)]]
    let_go()
    world:await("not exists (select from file_generation_queue where status <> 'completed')", PATIENCE)
    assert.same({ 2, 2, 2 }, { world:value "select min(attempt) from file_generation_queue",
      world:value "select max(attempt) from file_generation_queue",
      world:value "select count(distinct worker_id)::int + 1 from file_generation_queue" })
    assert.equal(1, world:value "select max(retry_count) from file_generation_queue")
    second.kill(signal.SIGTERM)
    assert.equal(0, (second.wait()))
    assert.equal(3, json.decode(second.output()).completed)
    assert.equal(3, #(world:differences()), "the objects of the dead, for the keeper")
  end)
end)
