-- Random kill -9 of any process, the master too, while jobs run and files are fetched: nothing is lost, nothing is
-- published twice, nothing is left over. ATELIER_KILLS says how many; it is 200, or what a minute allows, by default.
local clock = require "clock"
local crypto = require "atelier.crypto"
local gc = require "workflow.gc"
local http = require "atelier.http"
local json = require "atelier.json"
local services = require "spec.daemon.support.service"
local signal = require "posix.signal"
local time = require "posix.time"
local token = require "api.token"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local KILLS = tonumber(os.getenv "ATELIER_KILLS" or "")
local SECONDS = KILLS and math.huge or 60
local DEVICES = 40
local SECRET = "a secret for the killing"
local OPEN = "status in ('queued', 'processing')"

-- Fetches files over and over. What comes whole must be what its tag says; what does not come is asked for again.
local function fetch(url, customers, path)
  local asked, counts = {}, { whole = 0, wrong = 0, not_there = 0, cut = 0 }
  signal.signal(signal.SIGTERM, function() asked.stop = true end)
  while not asked.stop do
    for _, customer in ipairs(customers) do
      local headers = { Authorization = "Bearer " .. customer.token }
      local status = http.request { url = url .. "/api/ate/status?device_hash=" .. customer.device .. "&template=tools",
        headers = headers, timeout = 60 }
      local id = status and status.status == 200 and (json.decode(status.body) or {}).ate_file_id
      local file = type(id) == "string" and http.request { url = url .. "/api/ate/download/" .. id, headers = headers,
        timeout = 60 }
      if not file then
        counts.cut = counts.cut + 1
      elseif file.status ~= 200 then
        counts.not_there = counts.not_there + 1
      elseif file.headers.etag == '"' .. crypto.hex(crypto.sha256(file.body)) .. '"' then
        counts.whole = counts.whole + 1
      else
        counts.wrong = counts.wrong + 1
      end
      if asked.stop then break end
    end
  end
  local out = assert(io.open(path, "w"))
  out:write(json.encode(counts))
  out:close()
end

describe("kills at random", function()
  local service, client

  after_each(function()
    if client then
      signal.kill(client, signal.SIGKILL)
      wait.wait(client)
    end
    service:close()
  end)

  local function customers()
    return service.world:query("select d.device_hash as device, d.user_id::text as user from devices d order by 1")
  end

  local function start_client(config, path)
    local all, url = customers(), service:state().url
    for _, customer in ipairs(all) do
      customer.token = token.user(SECRET, config, customer.user, 86400)
    end
    client = assert(unistd.fork())
    if client == 0 then
      local ok, message = xpcall(fetch, debug.traceback, url, all, path)
      if not ok then io.stderr:write(message, "\n") end
      unistd._exit(ok and 0 or 1)
    end
  end

  local function completed()
    return service.world:value [[(select count(*) from file_generation_queue where status = 'completed')
      + (select count(*) from file_generation_history where status = 'completed')]]
  end

  -- One victim among all that live, but a worker only when something was done since the last one: a machine on which a
  -- build takes longer than the pause between two kills would never get anywhere. A killed master is followed by a new one.
  local function kill_one(kills)
    local pids, titles = {}, service:processes()
    for pid in pairs(titles) do
      if titles[pid] ~= "atelier: jail" then pids[#pids + 1] = pid end
    end
    local pid = pids[math.random(#pids)]
    if pid == service.master.pid and math.random(3) > 1 then return end -- its successor takes its time
    local kind = pid and titles[pid]:match "^atelier: (%a+)"
    local done = kind == "worker" and completed()
    if not pid or done == kills.done or not signal.kill(pid, signal.SIGKILL) then return end
    kills.done = done or kills.done
    kills[kind], kills.all = (kills[kind] or 0) + 1, kills.all + 1
    if pid == service.master.pid then
      service.master.wait()
      service:start()
    end
  end

  -- One transaction each, as customers would.
  local function more_work()
    for _ = 1, 6 do
      service.world:query("select queue_ate_generation($1, 'tools')", { ("D%04d"):format(math.random(DEVICES)) })
    end
  end

  local function none(sql)
    local rows = service.world:query(sql)
    assert.equal(0, #rows, rows[1] and json.encode(rows[1]))
  end

  local function no_wrong_rows()
    local world = service.world
    -- A run that was lost while a newer job waited has nothing left to do.
    none [[select status, error_code, error_message, count(*)::int from file_generation_queue
      where status <> 'completed' and not (status = 'cancelled' and error_code = 'superseded') group by 1, 2, 3]]
    assert.equal(DEVICES, world:value "select count(*)::int from ate_files")
    -- Every completed job published one file, and no file came from anything else.
    none [[
      with jobs as (select device_id, count(*) as n from (select device_id from file_generation_queue where status = 'completed'
          union all select device_id from file_generation_history where status = 'completed') j group by device_id),
        files as (select device_id, count(*) as n from (select device_id from ate_files union all
          select device_id from ate_file_versions) f group by device_id)
      select device_id::text, jobs.n as jobs, files.n as files from jobs full join files using (device_id)
        where jobs.n is distinct from files.n]]
    none [[select artifact_id::text from (select artifact_id from ate_files union all
      select artifact_id from ate_file_versions) a group by 1 having count(*) > 1]]
  end

  local function no_wrong_objects()
    local world = service.world
    for _, row in ipairs(world:query "select file_path, checksum, file_size_bytes from ate_files") do
      local bytes = services.slurp(world.store.root .. "/" .. row.file_path)
      assert.equal(row.file_size_bytes, #bytes)
      assert.equal(row.checksum, crypto.hex(crypto.sha256(bytes)))
    end
  end

  it("lose nothing, publish nothing twice, and leave nothing", function()
    math.randomseed(os.time())
    service = services.new { config = { jwt_secret = SECRET, keeper_interval = 1, workers = 2,
      listen_port = services.port() } }
    local world = service.world
    -- A kill costs a job that is being built one retry; of several thousand jobs, some are hit more often than thrice.
    world:query "alter table file_generation_queue alter column max_retries set default 30"
    service:start()
    service.world:customers(DEVICES)
    local path = os.tmpname()
    start_client(world.config, path)
    local kills, deadline = { all = 0 }, clock.now() + SECONDS
    while kills.all < (KILLS or 200) and clock.now() < deadline do
      kill_one(kills)
      more_work()
      time.nanosleep { tv_sec = 0, tv_nsec = math.random(0, 150) * 1000 * 1000 }
    end
    world:await(("not exists (select from file_generation_queue where %s)"):format(OPEN), 600)
    signal.kill(client, signal.SIGTERM)
    local _, how, code = wait.wait(client)
    client = nil
    assert.same({ "exited", 0 }, { how, code })
    local counts = json.decode(services.slurp(path))
    os.remove(path)
    assert.equal(0, counts.wrong)
    assert.is_true(counts.whole > 0)
    service:stop()
    no_wrong_rows()
    no_wrong_objects()
    -- The keeper's own sweep, without the time that it leaves to objects whose row may still come.
    local swept = assert(gc.run { store = world.store, config = world.config, grace = 0, force = true,
      ask = function(sql, params) return world.conn:query(sql, params) end })
    assert.same({}, swept.missing)
    assert.same({ {}, {} }, { world:differences() })
    assert.equal("", world:leftovers())
    no_wrong_objects()
    if os.getenv "ATELIER_KILLS" then
      io.stdout:write(("\n%s\n%s\n"):format(json.encode(kills), json.encode(counts)))
    end
  end)
end)
