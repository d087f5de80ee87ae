-- Faults of a remote store as a worker and a keeper meet them: what is the store's costs no job anything.
local cutter = require "spec.support.cutter"
local depot = require "template.depot"
local gc = require "workflow.gc"
local json = require "atelier.json"
local keeper = require "workflow.keeper"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local template = require "template"
local worlds = require "spec.workflow.support.world"

local PAGE <const> = "<html><body>Something stands in the way</body></html>"

describe("a remote store's fault", function()
  local server, world

  setup(function()
    server = stand_in.start()
  end)

  teardown(function()
    server:stop()
  end)

  before_each(function()
    server:control "/calm"
    server:control "/drop-buckets"
    world = worlds.new { config = { storage = "supabase", supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY } }
  end)

  after_each(function()
    world:close()
  end)

  local function error_json(status, code, message)
    return ('{"statusCode":"%s","error":"x","message":"%s","code":"%s"}'):format(status, message or "m", code)
  end

  for name, fault in pairs {
    ["a proxy's page with 400"] = { status = 400, body = PAGE }, ["a proxy's page with 403"] = { status = 403, body = PAGE },
    ["a proxy's page with 404"] = { status = 404, body = PAGE }, ["a proxy's page with 200"] = { status = 200, body = PAGE,
      headers = { ["content-type"] = "text/html" } },
    ["a redirect"] = { status = 302, headers = { location = "https://elsewhere.example/" } },
    ["a request that it finds wrong"] = { status = 400, body = error_json(400, "InvalidRequest") },
    ["a type that its bucket refuses"] = { status = 400, body = error_json(415, "InvalidMimeType") },
    ["nothing but 422"] = { status = 422 },
    ["success that is none"] = { status = 200, body = '{"Key":"k","Id":"i"}', method = "POST" },
    ["patience"] = { status = 429, headers = { ["retry-after"] = "60" } },
  } do
    it("costs no job a retry: " .. name, function()
      world:customers(2)
      local w = world:worker()
      fault.times = 1000000
      server:control("/fault", fault)
      local none, message = w:drain()
      assert.is_nil(none, message)
      assert.equal("queued 0, queued 0", world:states(), message)
      server:control "/calm"
      world.store.quiet_until = nil -- the patience that was asked for is over
      w.breaker.next_look = 0
      world:await(function()
        world.store.quiet_until = nil
        w:drain()
        return world:states() == "completed 0, completed 0"
      end)
    end)
  end

  for name, fault in pairs {
    ["the store finds it too large"] = { status = 400, body = error_json(413, "EntityTooLarge") },
    ["a proxy finds it too large"] = { status = 413, body = PAGE },
    ["its key is refused"] = { status = 400, body = error_json(400, "InvalidKey") },
  } do
    it("is the job's, and final, where " .. name, function()
      world:customers(1)
      fault.times, fault.method = 1, "POST"
      server:control("/fault", fault)
      assert.equal(1, assert(world:worker():drain()).failed)
      assert.equal("failed 0", world:states())
    end)
  end

  it("makes no keeper build anew what a proxy says is missing, nor think deleted what it says is", function()
    world:customers(2)
    assert.equal(2, assert(world:worker():drain()).completed)
    world:query "select count(queue_ate_generation(device_hash, 'tools')) from devices"
    assert.equal(2, assert(world:worker():drain()).completed)
    world:query "update ate_file_versions set retired_at = now() - interval '30 days'"
    for _, status in ipairs { 200, 404 } do
      server:control("/fault", { times = 1000000, status = status, body = PAGE, headers = { ["content-type"] = "text/html" } })
      local k = keeper.new { conn = world.conn, store = world.store, config = world.config, settle = 0 }
      local counts = assert(k:round())
      assert.is_true(counts.failed > 0)
      assert.same({ 0, 0 }, { counts.purged or 0, counts.missing or 0 })
      k:release()
      server:control "/calm"
    end
    assert.equal(2, world:value "select count(*)::int from ate_file_versions where purged_at is null")
    assert.equal(4, #assert(world.store:list "generated/"))
    assert.equal(0, world:value "select count(*)::int from file_generation_queue where status = 'queued'")
  end)

  -- A host that has its templates from the store alone, and a world whose store has them.
  local function without_folder()
    local loaded = assert(template.load(world.dir .. "/templates/tools.at"))
    local templates <close> = assert(storage.open_templates(world.config))
    assert(depot.push(templates, loaded))
    world.config.templates_dir = world.dir .. "/none"
    world:customers(1)
  end

  it("costs no job a retry either where templates are", function()
    without_folder()
    server:control("/fault", { times = 1000000, status = 400, body = error_json(403, "AccessDenied") })
    local w = world:worker()
    assert.equal("unavailable", select(3, w:drain()))
    assert.equal("queued 0", world:states())
    server:control "/calm"
    w.breaker.next_look = 0
    assert.equal(1, assert(w:drain()).completed)
  end)

  for after, name in pairs { [0] = "its manifest", "a script of it" } do
    it("costs nobody anything where a template's bytes change on the way, once: " .. name, function()
      without_folder()
      server:control("/fault", { times = 1, path = "/object/ate-templates/", method = "GET", after = after, flip = 0 })
      assert.equal(1, assert(world:worker():drain()).completed)
      assert.equal("completed 0", world:states())
    end)
  end

  it("has no published template taken away where its bytes change on the way", function()
    local loaded = assert(template.load(world.dir .. "/templates/tools.at"))
    local templates <close> = assert(storage.open_templates(world.config))
    assert(depot.push(templates, loaded))
    server:control("/fault", { times = 1, path = "/object/ate-templates/", method = "GET", flip = 0 })
    assert.equal(0, depot.push(templates, loaded))
  end)

  it("lets no worker be taken for a dead one while templates are waited for", function()
    world:configure { storage = "supabase", supabase_url = server.url, supabase_service_role_key = stand_in.KEY,
      worker_lease = 3 }
    without_folder()
    server:control("/fault", { times = 1, method = "GET", path = "/object/info/ate-templates/", held = true })
    local lease, is_kept = "select lease_until::text from file_generation_queue where status = 'processing'", false
    local first
    local w = world:worker { on_turn = function()
      local now = world:value(lease)
      first = first or now ~= json.null and now or nil
      if first and now ~= first and not is_kept then
        is_kept = true
        server:control "/calm"
      end
    end }
    assert.equal(1, assert(w:drain()).completed)
    assert.is_true(is_kept)
    assert.equal("completed 0", world:states())
  end)

  it("lets no keeper be taken for a dead one while it waits for the store", function()
    world:customers(1)
    assert(world:worker():drain())
    server:control "/seen"
    server:control("/fault", { times = 1, method = "POST", path = "/object/list-v2/", held = true })
    local ticks = 0
    local k = keeper.new { conn = world.conn, store = world.store, config = world.config, settle = 0, on_tick = function()
      for _, request in ipairs(server:control("/seen").seen) do
        ticks = ticks + (request.url:find "list%-v2" and 1 or 0)
      end
      if ticks > 0 then
        server:control "/calm"
      end
    end }
    assert.equal(0, assert(k:round()).failed)
    assert.is_true(ticks > 0)
    k:release()
  end)

  it("makes nothing anew where bytes that are compared change on the way, or are others than asked for", function()
    world:customers(1)
    assert(world:worker():drain())
    local proxy = cutter.start(server.url)
    finally(function()
      proxy:stop()
    end)
    world:configure { storage = "supabase", supabase_url = proxy.url, supabase_service_role_key = stand_in.KEY }
    local store <close> = assert(storage.open(world.config))
    for _, change in ipairs { false, { "bytes 0-", "bytes 5-" } } do
      if change then
        proxy:rules { { match = "GET /storage/v1/object/ate-files/", alter = change } }
      else
        server:control("/fault", { times = 1, path = "/object/ate-files/", method = "GET", flip = 200 })
      end
      local result = assert(gc.run { store = store, config = world.config, on_read = function() end,
        ask = function(sql, params) return world.conn:query(sql, params) end })
      assert.same({ {}, 1 }, { result.missing, result.verified })
    end
    assert.equal("completed 0", world:states())
  end)

  it("is not a full disk of this host's, where templates are kept, and that costs nobody anything", function()
    without_folder()
    local cache = world.dir .. "/templates"
    program.mount(cache, "size=4k")
    finally(function()
      program.unmount(cache)
    end)
    local w = world:worker()
    local none, message, code = w:drain()
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("No space left", message, 1, true)
    assert.equal("queued 0", world:states())
    assert.equal("", select(2, program.shell("ls -A " .. cache)))
    program.mount(cache, "remount,size=1m")
    world:await(function()
      w:drain()
      return world:states() == "completed 0"
    end)
  end)

  local function waits(hash)
    return world:value([[select extract(epoch from q.run_after - q.updated_at)::int from file_generation_queue q
      join devices d on d.id = q.device_id where d.device_hash = $1 and q.status = 'queued']], { hash })
  end

  it("that befalls one key alone makes that job wait, longer each time, and no other", function()
    world:customers(5)
    server:control("/fault", { times = 1000000, status = 418, method = "POST", path = "D0001" })
    local w = world:worker()
    local none, message, code = w:drain()
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("status 418", message, 1, true)
    assert.equal("queued 0, completed 0, completed 0, completed 0, completed 0", world:states())
    assert.equal(2, waits "D0001")
    assert.is_nil(w.breaker.problem)
    world:customer "LATER"
    world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    w:drain()
    assert.equal(4, waits "D0001")
    world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    server:control "/calm"
    assert(w:drain())
    assert.equal(6, world:value "select count(*)::int from ate_files")
  end)

  it("that lets a look pass, but nothing be stored, ends for all soon after it ends", function()
    world:customers(5)
    server:control("/fault", { times = 1000000, status = 418, method = "POST" })
    local w = world:worker()
    assert.equal("unavailable", select(3, w:drain()))
    assert.is_not_nil(w.breaker.problem)
    for i = 1, 5 do
      assert.equal(1, waits(("D%04d"):format(i)))
    end
    server:control "/calm"
    world:await(function()
      w:drain()
      return world:states() == "completed 0, completed 0, completed 0, completed 0, completed 0"
    end)
  end)

  it("that befalls one template alone makes its jobs wait, and no others", function()
    local folder = world:template { manifest = { name = "other" } }
    local templates <close> = assert(storage.open_templates(world.config))
    assert(depot.push(templates, (assert(template.load(folder)))))
    program.remove(folder)
    world:customers(5)
    world:query [[update file_generation_queue q set run_after = now() - interval '2 hours' from ate_templates t
      where t.id = q.template_id and t.name = 'other' and q.status = 'queued']]
    server:control("/fault", { times = 1000000, status = 403, path = "other.at",
      body = error_json(403, "AccessDenied") })
    local w = world:worker()
    assert.equal("unavailable", select(3, w:drain()))
    assert.equal(5, world:value "select count(*)::int from ate_files")
    local other = world:query [[select q.status, q.retry_count, q.run_after > q.updated_at as waits
      from file_generation_queue q join ate_templates t on t.id = q.template_id where t.name = 'other']]
    assert.same({ status = "queued", retry_count = 0, waits = true }, other[1])
    for i = 2, 5 do
      assert.same(other[1], other[i])
    end
    assert.is_nil(w.breaker.problem)
    server:control "/calm"
    world:await(function()
      w:drain()
      return world:value "select count(*) = 10 from ate_files"
    end)
  end)
end)
