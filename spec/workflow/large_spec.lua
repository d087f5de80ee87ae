-- A large asset through all of it on every kind of store: no process ever holds it, a lease outlives it, a cut shows
-- nothing of it.
local http = require "atelier.http"
local json = require "atelier.json"
local pour = require "storage.pour"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local swift = require "spec.support.swift"
local worlds = require "spec.workflow.support.world"

local ASSET = 80 << 20
local MOST = 64 << 10 -- KiB

describe("a large bundle", function()
  local world, server, dir

  after_each(function()
    world:close()
    if server then
      server:stop()
      server = nil
    end
    if dir then
      program.remove(dir)
      dir = nil
    end
  end)

  local function set_up(config)
    world = worlds.new { config = config }
    world:template { manifest = { version = "2.0.0", file_structure = json.array {
      { file = "main.lua", type = "lua" }, { file = "a.mp4", type = "binary" } } },
      prepare = function(folder)
        assert(os.execute(("head -c %d /dev/urandom >%s/a.mp4"):format(ASSET, folder)))
      end }
    world:customer "PHONE-1"
  end

  -- Runs a command in a process of its own, which must stay small (proc(5), VmHWM).
  local function run_small(words)
    local quoted = {}
    for i, word in ipairs(words) do
      quoted[i] = ("%q"):format(word)
    end
    worlds.write(world.dir .. "/probe.lua", ([[
      local code = require("cli").main { [0] = "atelier", %s }
      io.stderr:write("VmHWM ", io.open("/proc/self/status"):read("a"):match "VmHWM:%%s*(%%d+)", "\n")
      return code]]):format(table.concat(quoted, ", ")))
    local code, out, err = program.run({ "run", world.dir .. "/probe.lua" }, world.env)
    assert.equal(0, code, out .. err)
    local peak = tonumber(err:match "VmHWM (%d+)")
    assert.is_true(peak <= MOST, ("%s took %d KiB"):format(words[1], peak))
  end

  local function all_the_way()
    run_small { "work", "--once" }
    local file = world:file "PHONE-1"
    assert.is_true(file.file_size_bytes > ASSET)
    local path = world.dir .. "/large.ate"
    local from <close> = assert(world.store:get(file.file_path))
    assert(pour.into_file(from, path))
    local _, key = program.run({ "license", "--device", "PHONE-1", "--template", "tools" }, world.env)
    run_small { "open", path, "--device", "PHONE-1", "--license", key:match "%S+", "-x", world.dir .. "/opened" }
    assert.equal(0, (program.shell(("cmp %s/opened/a.mp4 %s/templates/tools.at/a.mp4"):format(world.dir, world.dir))))
    if world.store.root then
      assert.equal("", world:leftovers())
    end
    assert.equal(1, #assert(world.store:list "generated/"))
  end

  it("goes through small processes into a local store #size", function()
    set_up {}
    all_the_way()
  end)

  it("goes through small processes into S3, in parts #size", function()
    dir = program.folder()
    server = swift.start(dir)
    set_up { storage = "s3", s3_endpoint = server.endpoint, s3_bucket = "ate-files", s3_access_key = "test:tester",
      s3_secret_key = "testing", s3_part_bytes = 32 << 20 }
    all_the_way()
  end)

  describe("on Supabase Storage", function()
    before_each(function()
      server = stand_in.start()
      set_up { storage = "supabase", supabase_url = server.url, supabase_service_role_key = stand_in.KEY, worker_lease = 2 }
      assert(http.request { method = "POST", url = server.url .. "/storage/v1/bucket", body =
        '{"id":"ate-files","name":"ate-files","public":false,"file_size_limit":1000000000}',
        headers = { authorization = "Bearer " .. stand_in.KEY } })
    end)

    it("goes through small processes #size", function()
      all_the_way()
    end)

    it("that is cut on its way shows nothing, and arrives all the same", function()
      server:control("/fault", { times = 1, method = "POST", cut = 20000000 })
      local store = assert(storage.open(world.config))
      local seen = 0
      assert(world:worker({ on_event = function(event)
        if event == "completed" then
          seen = #assert(store:list "generated/")
        end
      end }):drain())
      store:close()
      assert.equal(1, seen)
      local posts = 0
      for _, request in ipairs(server:control("/seen").seen) do
        posts = posts + (request.method == "POST" and request.bytes > ASSET and 1 or 0)
      end
      assert.equal(1, posts, "the cut one was not taken")
    end)

    it("keeps its lease while the store takes its time", function()
      server:control("/fault", { times = 1, method = "POST", held = true })
      local process = world:start "work"
      world:await "exists (select from file_generation_queue where stage = 'storing')"
      local until_then = world:value "select lease_until from file_generation_queue"
      assert.equal(0, #assert(world.store:list "generated/"))
      world:await(("exists (select from file_generation_queue where lease_until > '%s'::timestamptz + interval '1 s')")
        :format(until_then))
      server:control "/calm"
      world:await "exists (select from file_generation_queue where status = 'completed' and attempt = 1)"
      process.kill(15)
      assert.equal(0, (process.wait()))
    end)
  end)
end)
