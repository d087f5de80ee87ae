-- A worker over a remote store that goes away and comes back.
local contract = require "spec.storage.contract"
local depot = require "template.depot"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local template = require "template"
local worlds = require "spec.workflow.support.world"

describe("a remote store", function()
  local server, world, store

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
    store = world.store
  end)

  after_each(function()
    world:close()
  end)

  local function objects()
    return #assert(store:list "generated/")
  end

  it("gets every file, with its hash", function()
    world:customers(40)
    local counts = assert(world:worker():drain())
    assert.same({ 40, 0 }, { counts.completed, counts.failed })
    assert.equal(40, objects())
    local file = world:file "D0007"
    local found = assert(store:head(file.file_path))
    assert.same({ file.file_size_bytes, file.checksum }, { found.size, found.sha256 })
  end)

  for _, fault in ipairs {
    { name = "answers with errors", status = 503, body = "<html></html>", code = "unavailable" },
    { name = "resets every connection", cut = 0, code = "unavailable" },
    { name = "no longer takes the key", status = 400, code = "denied",
      body = '{"statusCode":"403","error":"Unauthorized","message":"signature verification failed","code":"AccessDenied"}' },
  } do
    it("that " .. fault.name .. " costs no job a retry", function()
      world:customers(5)
      local w = world:worker()
      server:control("/fault", { times = 1000000, status = fault.status, body = fault.body, cut = fault.cut })
      local none, message, code = w:drain()
      assert.is_nil(none)
      assert.equal(fault.code, code, message)
      assert.equal("queued 0, queued 0, queued 0, queued 0, queued 0", world:states())
      local attempts = world:value "select sum(attempt)::int from file_generation_queue"
      assert.equal(fault.code, select(3, w:drain()))
      assert.equal(attempts, world:value "select sum(attempt)::int from file_generation_queue", "nothing was claimed")
      server:control "/calm"
      world:await(function()
        local counts = w:drain()
        return counts and counts.completed == 5
      end)
      assert.equal("completed 0, completed 0, completed 0, completed 0, completed 0", world:states())
      assert.equal(5, objects())
    end)
  end

  it("completes what it has when the store goes away amid a batch", function()
    world:customers(6)
    local w = world:worker()
    assert.is_true(contract.put(store, "generated/first", { "x" })) -- makes the bucket
    assert.equal(1, store:delete { "generated/first" })
    server:control("/fault", { times = 1000000, status = 503, method = "POST", after = 3 })
    assert.equal("unavailable", select(3, w:drain()))
    assert.equal(3, world:value "select count(*)::int from file_generation_queue where status = 'completed'")
    assert.equal(3, world:value "select count(*)::int from file_generation_queue where status = 'queued' and retry_count = 0")
    server:control "/calm"
    world:await(function()
      w:drain()
      return world:value "select count(*) = 6 from ate_files"
    end)
    assert.equal(6, objects())
  end)

  it("costs no retry either when handing back fails at first", function()
    world:customers(3)
    local w = world:worker()
    server:control("/fault", { times = 1000000, status = 503 })
    w.queue.release = function(queue)
      queue.release = nil
      return nil, "the database is busy", "57014"
    end
    assert.is_nil((w:drain()))
    assert.equal("processing 0, processing 0, processing 0", world:states())
    assert.is_true(w:resume(w.queue.conn, w.queue.id))
    assert.equal("queued 0, queued 0, queued 0", world:states())
  end)

  it("has the templates for hosts that have no folder of them", function()
    local loaded = assert(template.load(world.dir .. "/templates/tools.at"))
    local templates = assert(storage.open_templates(world.config))
    assert.equal(#loaded.files + 1, depot.push(templates, loaded))
    templates:close()
    world.config.templates_dir = world.dir .. "/none"
    world:customer "D1"
    server:control("/fault", { times = 1000000, status = 503 })
    assert.equal("unavailable", select(3, world:worker():drain()))
    assert.equal("queued 0", world:states())
    server:control "/calm"
    local counts = assert(world:worker():drain())
    assert.equal(1, counts.completed)
    -- What was fetched is the very template that was published.
    local fetched = assert(template.load(("%s/templates/tools-%s/tools.at"):format(world.dir, loaded.hash)))
    assert.equal(loaded.hash, fetched.hash)
  end)
end)
