local offer = require "workflow.offer"
local pg = require "atelier.pg"
local signal = require "posix.signal"
local worlds = require "spec.workflow.support.world"

describe("what another transaction holds", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8, worker_lease = 600 } } -- on a slow machine, too
  end)

  after_each(function()
    world:close()
  end)

  local DONE <const> = "(select count(*) = %d from file_generation_queue where status = 'completed')"

  local THEIRS <const> = [[(select q.status || ' ' || q.attempt || ' ' || q.retry_count from file_generation_queue q
    join devices d on d.id = q.device_id where d.device_hash = 'D0001')]]

  it("keeps one job back, and no other", function()
    world:customers(6)
    local rival <close> = assert(pg.connect(world.url))
    assert(rival:exec "begin; select 1 from devices where device_hash = 'D0001' for update")
    local process = world:start("work")
    world:await(DONE:format(5))
    world:customer "LATER"
    world:await(DONE:format(6)) -- and those that come after it
    assert.equal("processing 1 0", world:value(THEIRS))
    assert(rival:exec "rollback")
    world:await(DONE:format(7))
    assert.equal("completed 1 0", world:value(THEIRS))
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
    assert.same({ {}, {} }, { world:differences() })
    world:check_objects()
  end)

  it("goes back at no cost when the worker ends, and its object goes", function()
    world:customers(2)
    local rival <close> = assert(pg.connect(world.url))
    assert(rival:exec "begin; select 1 from devices where device_hash = 'D0001' for update")
    local process = world:start("work")
    world:await(DONE:format(1))
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
    assert.equal("queued 1 0", world:value(THEIRS))
    world:check_objects()
    assert(rival:exec "rollback")
  end)

  -- As when a plan is being renamed, which each of its files refers to.
  it("keeps a worker from building more and more, when that is much", function()
    world:customers(130)
    local rival <close> = assert(pg.connect(world.url))
    assert(rival:exec "begin; select 1 from devices where device_hash > 'D0005' for update")
    local process = world:start("work")
    world:await(DONE:format(5))
    world:await "(select count(*) >= 100 from file_generation_queue where status = 'processing')"
    world:customer "D0000"
    assert(rival:exec "rollback")
    world:await(DONE:format(131))
    assert.equal(0, world:value "(select sum(retry_count) + sum(attempt - 1) from file_generation_queue)")
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
    world:check_objects()
  end)

  it("is full at a hundred, and offers first what was last", function()
    local held, items = offer.new(60), {}
    for n = 1, 100 do
      assert.is_false(held:is_full())
      items[n] = { job = { queue_id = "q" .. n, attempt = 1, device_hash = "D" } }
      assert.is_true(held:is_busy(items[n], "busy: another transaction"))
    end
    assert.is_true(held:is_full())
    assert.is_false(held:is_busy({}, "stale: attempt 1"))
    local list = {}
    assert.is_true(held:add_to(list, true)) -- and the lease is to be renewed
    assert.is_false(held:is_full())
    assert.equal(100, #list)
    assert.equal(items[100], list[1])
    assert.is_false(held:add_to(list, true))
  end)
end)
