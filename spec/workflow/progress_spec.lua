-- What people are told of a job: the stages that last, the log, the metrics; and what is prepared ahead.
local json = require "atelier.json"
local log = require "log"
local metrics = require "metrics"
local worlds = require "spec.workflow.support.world"

describe("a worker tells", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = 8 } }
    assert(world.conn:exec [[create table told (n serial, queue_id uuid, stage text);
      create function tell() returns trigger language plpgsql as $$
      begin
        if new.stage is distinct from old.stage and new.stage is not null then
          insert into public.told (queue_id, stage) values (new.id, new.stage);
        end if;
        return new;
      end $$;
      create trigger tell before update on file_generation_queue for each row execute function tell()]])
  end)

  after_each(function()
    world:close()
  end)

  local function told()
    return world:value "select coalesce(string_agg(stage, ' ' order by n), '') from told"
  end

  -- The real store, which confirms nothing at the first two looks.
  local function slow_store()
    local asked = {}
    return setmetatable({ wait = function(_, ticket, timeout)
      asked[ticket] = (asked[ticket] or 0) + 1
      if asked[ticket] <= 2 then
        return nil, "not yet", "timeout"
      end
      return world.store:wait(ticket, timeout)
    end }, { __index = function(_, name)
      return function(_, ...)
        return world.store[name](world.store, ...)
      end
    end })
  end

  it("the stages of a job that last, in their order", function()
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("head -c 2M /dev/urandom >%s/a.mp4"):format(folder)))
      end }
    world:customer "PHONE-1"
    assert.equal(1, assert(world:worker({ store = slow_store() }):drain()).completed)
    assert.equal("claimed rendering sealing checking storing", told())
    world:check_objects()
  end)

  it("hardly anything of what a busy one does", function()
    world:customers(8)
    assert.equal(8, assert(world:worker({ store = slow_store() }):drain()).completed)
    assert.equal(8, world:value "select count(*)::int from told where stage = 'claimed'")
    assert.equal(1, world:value "select count(*)::int from told where stage = 'rendering'", "the kit is made once")
  end)

  it("nothing of what was prepared while there was no job", function()
    local w, conn = world:worker()
    local steps = 0
    while w.idle.warm:step(conn) do
      steps = steps + 1
    end
    assert.equal(3, steps, "a template, three plans")
    assert.is_false(w.idle.warm:step(conn), "not again at once")
    world:customer "PHONE-1"
    assert.equal(1, assert(w:drain()).completed)
    assert.is_nil(told():match "rendering")
    assert.is_nil(told():match "checking")
  end)

  it("nobody of a template that cannot be prepared: its jobs will", function()
    world:template { manifest = { version = "2.0.0" }, files = { ["main.lua"] = "return +{{device_hash}}" } }
    local w, conn = world:worker()
    while w.idle.warm:step(conn) do -- luacheck: ignore 542
    end
    world:customer "PHONE-1"
    assert.equal(1, assert(w:drain()).failed)
  end)

  it("the log of which job it speaks", function()
    local path = world.dir .. "/lines"
    log.configure { level = "info", format = "json", out = assert(io.open(path, "a")) }
    world:template { manifest = { version = "2.0.0" }, files = {
      ["main.lua"] = "local plan = '{{plan}}' -- {{device_hash}} {{license_key}}\nreturn plan == 'pro' and nil + 1" } }
    world:customer("GOOD", { plan = "starter" })
    world:customer("BAD", { plan = "pro" })
    local w = world:worker()
    w.progress.is_serving = true
    assert.same({ completed = 1, failed = 1, lost = 0 }, assert(w:drain()))
    local events = {}
    for line in io.lines(path) do
      local fields = assert(json.decode(line))
      events[fields.event] = fields
    end
    for event, device in pairs { ["file ready"] = "GOOD", ["job failed"] = "BAD" } do
      local job = world:jobs(("d.device_hash = '%s'"):format(device))[1]
      assert.equal(job.id, events[event].queue_id)
      assert.equal(1, events[event].attempt)
      assert.equal(device, events[event].device)
    end
    assert.equal("jail_error", events["job failed"].code)
  end)

  it("the metrics of each job and each run in the jail", function()
    local function value(family, label)
      local total = 0
      for labels, n in metrics.collect():gmatch("\n" .. family .. "{([^\n]*)} (%d+)") do
        total = total + (labels:find(label, 1, true) and tonumber(n) or 0)
      end
      return total
    end
    local before = value("atelier_jobs_total", 'result="completed"')
    world:customers(3)
    assert(world:worker():drain())
    assert.equal(before + 3, value("atelier_jobs_total", 'result="completed"'))
    assert.is_true(value("atelier_jail_runs_total", 'verdict="ok"') >= 3)
    assert.is_true(value("atelier_job_seconds_count", 'stage="total"') >= 3)
  end)
end)
