-- Nobody waits for ever: a job of priority 10 is first in the line 270 seconds after it may run, whatever came since.
--
-- A place in the line is the time of the request and 30 seconds per step of priority. So a job of priority 10 stands
-- behind those of priority 1 that came up to 270 seconds later, and before all that come after that: it waits for 270
-- seconds and the work that is ahead of it then, at the most. Here a second is a step: all that waits is made a second
-- older, jobs come, a worker claims what it can do in a second. That a step takes time too makes jobs older, not younger.
local worlds = require "spec.workflow.support.world"

local CAPACITY = 10 -- jobs in a step
local HEAD_START = 270

describe("under a load of priority 1", function()
  local world

  before_each(function()
    world = worlds.new()
    world:customers(900)
    assert(world.conn:exec [[
      delete from file_generation_queue;
      create table runs (id uuid primary key, priority int, came int, claimed int);
      -- One simulated second.
      create function step(nth int, urgent int, patient int, capacity int) returns int language plpgsql as $$
      declare
        template constant uuid := (select id from ate_templates limit 1);
        ids uuid[];
      begin
        update file_generation_queue set run_after = run_after - interval '1 second' where status = 'queued';
        with free as (
          select d.id, row_number() over (order by d.id) as nth from devices d
          where not exists (select from file_generation_queue q where q.device_id = d.id and q.status = 'queued')
          limit urgent + patient
        ), came as (
          insert into file_generation_queue (device_id, template_id, priority)
          select f.id, template, case when f.nth <= urgent then 1 else 10 end from free f returning id, priority
        )
        insert into runs select c.id, c.priority, step.nth from came c;
        -- The claim's memory of where it stood is of real time.
        perform set_config('atelier.claim_until', '', false);
        ids := array(select queue_id from claim_ate_generations('ageing', capacity));
        update runs r set claimed = step.nth where r.id = any (ids);
        -- Done: the device may come again.
        delete from file_generation_queue q where q.id = any (ids);
        return cardinality(ids);
      end $$]])
  end)

  after_each(function()
    world:close()
  end)

  local function step(nth, urgent, patient)
    return world:query("select step($1, $2, $3, $4) as n", { nth, urgent, patient, CAPACITY })[1].n
  end

  local function longest_wait(priority)
    return world:value("select coalesce(max(coalesce(claimed, 100000) - came), -1) from runs where priority = $1",
      { priority })
  end

  it("of 90 % of the capacity for ten minutes, a job of priority 10 waits 270 seconds at the most", function()
    -- In bursts of 18 and pauses; every other second somebody patient comes: 95 % in all.
    for nth = 1, 600 do
      step(nth, nth % 2 == 0 and 18 or 0, nth % 2)
    end
    for nth = 601, 700 do
      step(nth, 0, 0)
    end
    assert.equal(300, world:value "select count(*)::int from runs where priority = 10")
    assert.is_true(longest_wait(10) <= HEAD_START, longest_wait(10))
    assert.is_true(longest_wait(1) <= 10, longest_wait(1))
  end)

  it("beyond the capacity, it waits 270 seconds and what was ahead of it then", function()
    local most = 400
    step(1, 12, 1)
    assert.equal(1, world:value "select count(*)::int from runs where priority = 10 and claimed is null",
      "the urgent ones go first")
    for nth = 2, most do
      step(nth, 12, 0)
      if world:value "select claimed is not null from runs where priority = 10" then
        break
      end
    end
    -- Two in a step stay behind: after 270 of them that is 540 jobs, 54 steps of work.
    assert.is_true(longest_wait(10) <= HEAD_START + 2 * HEAD_START // CAPACITY + 1, longest_wait(10))
  end)
end)
