-- Real workers as processes: several at once, killed, told to stop, cut off from the database.
local json = require "atelier.json"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"
local program = require "spec.support.program"
local signal = require "posix.signal"
local worlds = require "spec.workflow.support.world"

local BATCH = 8
-- More than a worker has under way at once, however long its store takes: some are left that it has not claimed.
local MANY = 240
local NOTHING_LEFT = "not exists (select from file_generation_queue where status in ('queued', 'processing'))"

describe("workers as processes", function()
  local world

  before_each(function()
    world = worlds.new { config = { worker_batch = BATCH } }
  end)

  after_each(function()
    world:close()
  end)

  local function count(where)
    return world:value("select count(*)::int from file_generation_queue where " .. where)
  end

  local function all_is_well(jobs)
    assert.equal(jobs, count "status = 'completed'")
    assert.equal(jobs, count "true")
    assert.same({ {}, {} }, { world:differences() })
    assert.equal("", world:leftovers())
    world:check_objects()
  end

  -- A worker that has a batch built or two, and stands before its first completion; others may be on their way.
  local function held_worker(...)
    local let_go = world:hold_completions()
    local process = world:start("work", ...)
    world:await(worlds.HELD)
    return process, let_go
  end

  it("two over one queue complete each job once, with an object for each row and a row for each object", function()
    local first, second = world:start("work", "--json"), world:start("work", "--json")
    world:await "(select count(*) from ate_workers) = 2"
    local let_go = world:hold_completions() -- neither may have done all before the other has begun
    world:customers(2 * MANY)
    world:await "(select count(distinct worker_id) from file_generation_queue) = 2"
    let_go()
    world:await(NOTHING_LEFT)
    local done = 0
    for _, process in ipairs { first, second } do
      process.kill(signal.SIGTERM)
      assert.equal(0, (process.wait()))
      assert.equal("", process.errors())
      local answer = json.decode(process.output())
      assert.is_true(answer.completed > 0)
      done = done + answer.completed
    end
    assert.equal(2 * MANY, done)
    assert.equal(1, world:value "select max(attempt) from file_generation_queue")
    all_is_well(2 * MANY)
  end)

  it("one is killed before it can complete: another one finishes all, and each job pays for it once at most", function()
    world:customers(MANY)
    local process, let_go = held_worker()
    process.kill(signal.SIGKILL)
    assert.equal(signal.SIGKILL, select(2, process.wait()))
    world:check_objects()
    local written = #world:keys() -- not all of it arrived
    -- Its last transaction was sent: the server finishes it for the dead, and then the session ends.
    let_go()
    world:await "not exists (select from pg_locks where locktype = 'advisory')"
    local done, held = count "status = 'completed'", count "attempt = 1 and status <> 'completed'"
    assert.is_true(done >= 1 and done <= written and held >= BATCH)
    local code, text = program.run({ "work", "--once", "--json" }, world.env)
    assert.equal(0, code)
    assert.equal(MANY - done, json.decode(text).completed)
    assert.equal(MANY, count "status = 'completed'")
    assert.equal(held, count "retry_count = 1 and attempt = 2")
    assert.equal(MANY - held, count "retry_count = 0 and attempt = 1")
    local orphans, missing = world:differences()
    assert.equal(written - done, #orphans, "whole, without a row, for the sweep")
    assert.same({}, missing)
    world:check_objects()
  end)

  it("one is killed amid large files: none of it has a final name, and the next one clears up", function()
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("head -c 30M /dev/urandom >%s/a.mp4"):format(folder)))
      end }
    world:customers(4)
    local process = world:start "work"
    local function is_amid() return world:leftovers():find "bundle" end
    while true do
      world:await(is_amid)
      process.kill(signal.SIGSTOP)
      if is_amid() then break end -- else it was done before we stopped it
      world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
      process.kill(signal.SIGCONT)
    end
    process.kill(signal.SIGKILL)
    process.wait()
    world:check_objects()
    assert.is_truthy(world:leftovers():find "@")
    assert.equal(0, (program.run({ "work", "--once" }, world.env)))
    assert.equal(0, count "status <> 'completed'")
    assert.equal("", world:leftovers())
    world:check_objects()
  end)

  it("a job that kills every worker ends after its retries", function()
    world:customer "PHONE-1"
    local let_go = world:hold_completions()
    for run = 1, 4 do
      local process = world:start "work"
      world:await("(select attempt = " .. run .. " and status = 'processing' from file_generation_queue)")
      process.kill(signal.SIGKILL)
      process.wait()
      world:await(function()
        -- One that came to its completion stands before it, and would not see that its worker is dead.
        world:query "select pg_terminate_backend(pid) from pg_locks where not granted and relation = 'ate_files'::regclass"
        return world:value "not exists (select from pg_locks where locktype = 'advisory')"
      end)
    end
    let_go()
    assert.equal(0, (program.run({ "work", "--once" }, world.env)))
    local job = world:jobs()[1]
    assert.equal("failed", job.status)
    assert.equal(4, job.attempt)
    assert.equal("worker_lost", job.error_code)
    assert.equal(0, (program.run({ "queue", "retry", job.id }, world.env)))
    assert.equal(0, (program.run({ "work", "--once" }, world.env)))
    assert.equal("completed", world:jobs()[1].status)
  end)

  it("one told to stop amid a batch completes what is stored and hands back the rest at no cost", function()
    world:customers(MANY)
    local process, let_go = held_worker "--json"
    process.kill(signal.SIGTERM)
    let_go()
    assert.equal(0, (process.wait()))
    local answer = json.decode(process.output())
    assert.is_true(answer.completed > 0)
    assert.equal(count "attempt = 1", answer.completed + answer.released)
    assert.equal(answer.completed, count "status = 'completed'")
    assert.equal(MANY - answer.completed, count "status = 'queued' and run_after <= now()")
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("an idle one ends when told to", function()
    local process = world:start "work"
    world:await [[exists (select from pg_stat_activity a join ate_workers w on w.backend_pid = a.pid
      where a.state = 'idle' and a.state_change < clock_timestamp() - interval '20 ms')]]
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
  end)

  it("`work --once` that loses its connection records what it has built, and says what happened", function()
    world:customers(30)
    local process, let_go = held_worker("--once", "--json")
    world:query "select pg_terminate_backend(backend_pid) from ate_workers"
    let_go()
    assert.equal(1, (process.wait()))
    local answer = json.decode(process.output())
    assert.equal("connection", answer.code)
    assert.matches("terminating connection", answer.message)
    assert.equal(0, world:value "select max(retry_count) from file_generation_queue")
    local done = count "status = 'completed'"
    assert.is_true(done > 0)
    assert.equal(count "attempt > 0", done, "all that was built")
    assert.same({ {}, {} }, { world:differences() })
    assert.equal(0, (program.run({ "work", "--once" }, world.env)))
    all_is_well(30)
  end)

  it("`work` that loses its connection goes on with a new one, under a new name", function()
    world:customers(30)
    local process, let_go = held_worker "--json"
    world:query "select pg_terminate_backend(backend_pid) from ate_workers"
    let_go()
    world:await(NOTHING_LEFT)
    assert.equal(1, world:value "select max(attempt) from file_generation_queue")
    all_is_well(30)
    world:await "(select count(*) = 2 from ate_workers)" -- the new name is known from its first claim on
    local named = world:query "select worker_id, gone_reason, lock_held from ate_workers order by started_at"
    assert.equal(2, #named)
    assert.equal("released", named[1].gone_reason)
    assert.equal(json.null, named[2].gone_reason)
    assert.is_true(named[2].lock_held)
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
    assert.equal(named[2].worker_id, json.decode(process.output()).worker_id)
    assert.matches("database failed", process.errors())
  end)

  it("`work` waits for a server that is away, and takes up its work when it is back", function()
    world:customers(5)
    local process = world:start("work", "--json")
    world:await(NOTHING_LEFT)
    local data = postgres.host() .. "/data"
    -- The server must inherit nothing: a pipe that it held open would never end.
    local function control(words)
      local code, out, err = program.shell(([[exec bash -c 'cd /; for n in $(ls /proc/$$/fd); do
        [ $n -le 2 ] || eval "exec $n>&-"; done
        exec setpriv --reuid postgres --regid postgres --init-groups \
          $(ls /usr/lib/postgresql/*/bin/pg_ctl | tail -n 1) -D "$0" -m fast -w "$@"' %s %s]]):format(data, words))
      assert.equal(0, code, out .. err)
    end
    local options = assert(io.open(data .. "/postmaster.opts")):read("a"):match "^%S+ (.*)\n"
    control "stop"
    local code, text = program.run({ "work", "--once", "--json" }, world.env)
    assert.equal(1, code)
    assert.equal("connection", json.decode(text).code)
    control(("-l %s/../log -o '%s' start"):format(data, (options:gsub('"', ""))))
    world.conn:close()
    world.listener:close()
    world.conn, world.listener = assert(pg.connect(world.url)), nil
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    world:await(NOTHING_LEFT)
    process.kill(signal.SIGTERM)
    assert.equal(0, (process.wait()))
    assert.equal(10, json.decode(process.output()).completed)
    assert.equal(10, count "status = 'completed'")
  end)

  it("`generate` whose job another worker took waits for it, and reports it as its own", function()
    world:customer "PHONE-1"
    local process, let_go = held_worker()
    local asked = world:start("generate", "--device", "PHONE-1", "--template", "tools", "--json")
    world:await "(select count(*) from file_generation_queue) = 2"
    asked.kill(signal.SIGSTOP)
    let_go()
    world:await(NOTHING_LEFT)
    asked.kill(signal.SIGCONT)
    assert.equal(0, (asked.wait()))
    local answer = json.decode(asked.output())
    assert.equal(2, answer.generation)
    assert.equal(world:file("PHONE-1").id, answer.ate_file_id)
    process.kill(signal.SIGTERM)
    process.wait()
  end)

  it("a job that was called off is not run", function()
    world:customer "PHONE-1"
    local id = world:jobs()[1].id
    assert.equal(0, (program.run({ "queue", "cancel", id }, world.env)))
    local code, text = program.run({ "work", "--once", "--json" }, world.env)
    assert.equal(0, code)
    assert.equal(0, json.decode(text).completed)
    assert.equal("cancelled", world:jobs()[1].status)
  end)

  it("one that has worked 700 jobs is as large as after 100 #size", function()
    world:customers(98)
    world:customer("STARTER", { plan = "starter" }) -- each plan's kit is made before the first look
    world:customer("MAX", { plan = "max" })
    local process = world:start "work"
    world:await(NOTHING_LEFT)
    local function state()
      local text = select(2, program.shell(("cat /proc/%d/status"):format(process.pid)))
      local descriptors = select(2, program.shell(("ls /proc/%d/fd | wc -l"):format(process.pid)))
      return tonumber(text:match "VmRSS:%s*(%d+)"), descriptors
    end
    local first, descriptors = state()
    local sizes = { first }
    for half = 1, 2 do
      for _ = 1, 3 do
        world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
        world:await(NOTHING_LEFT)
      end
      local now
      sizes[half + 1], now = state()
      assert.equal(descriptors, now)
    end
    assert.equal(700, count "status = 'completed'")
    -- What is lost with each job is lost in each half; that more files are under way for once, in one.
    local least = math.min(sizes[2] - sizes[1], sizes[3] - sizes[2])
    assert.is_true(least < 512, table.concat(sizes, ", then ") .. " KiB")
  end)
end)
