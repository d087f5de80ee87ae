-- From rows that a payment writes to a file that the device opens.
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local licence = require "ate.licence"
local program = require "spec.support.program"
local worlds = require "spec.workflow.support.world"

describe("a purchase", function()
  local world

  before_each(function()
    world = worlds.new()
  end)

  after_each(function()
    world:close()
  end)

  it("becomes a file that the device can open, without anybody asking", function()
    world:customer "PHONE-1"
    local counts = assert(world:worker():drain())
    assert.same({ completed = 1, failed = 0, lost = 0 }, counts)
    local values, opened, file = world:open "PHONE-1"
    assert.equal("PHONE-1", values[1])
    assert.same({ "timeline", "follow", "unfollow", "target", "video_training", "advanced_analysis" }, values[4])
    assert.equal(values[3], opened.metadata.expires_at)
    assert.equal(1, opened.metadata.generation)
    assert.equal(opened.checksum, file.checksum)
    assert.equal(opened.size, file.file_size_bytes)
    assert.is_nil(file.generated_variables.license_key)
    local info = world:query("select * from get_download_info('PHONE-1')")[1]
    assert.is_true(info.is_ready)
    assert.equal(file.id, info.ate_file_id)
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("makes one job of a burst of changes", function()
    world:customer "PHONE-1"
    for _, plan in ipairs { "starter", "max", "pro", "max" } do
      world:query("update subscriptions set plan_id = $1", { plan })
    end
    world:query "update licenses set expires_at = expires_at + interval '1 day'"
    assert.equal(1, #world:jobs())
    assert.equal(1, assert(world:worker():drain()).completed)
    assert.equal("max", select(2, world:open "PHONE-1").metadata.plan)
  end)

  it("of a larger plan makes the next generation of the same file", function()
    world:customer("PHONE-1", { plan = "starter" })
    local w = world:worker()
    assert(w:drain())
    local before = world:file "PHONE-1"
    world:query "update subscriptions set plan_id = 'max'"
    assert(w:drain())
    local _, opened, after = world:open "PHONE-1"
    assert.equal(before.id, after.id)
    assert.equal(2, opened.metadata.generation)
    assert.equal(2, after.generation)
    assert.are_not.equal(before.file_path, after.file_path)
    local former = world:query "select * from ate_file_versions"
    assert.equal(1, #former)
    assert.equal(before.file_path, former[1].file_path)
    assert.is_false(former[1].is_active)
    assert.is_truthy(world.store:head(before.file_path), "the keeper's, after its grace period")
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("holds only what the plan has", function()
    world:customer("PHONE-1", { plan = "starter" })
    world:customer("PHONE-2", { plan = "pro" })
    assert(world:worker():drain())
    local function has_follow(hash)
      for _, entry in ipairs(select(2, world:open(hash)).entries) do
        if entry.name == "follow.lua" then
          return true
        end
      end
      return false
    end
    assert.is_false(has_follow "PHONE-1")
    assert.is_true(has_follow "PHONE-2")
  end)

  it("in a trial gets a file until the trial's end", function()
    world:customer("TRIAL-1", { trial = true })
    assert(world:worker():drain())
    local values, opened = world:open "TRIAL-1"
    assert.equal("starter", opened.metadata.plan)
    local ends = world:value "select to_char(trial_ends_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from devices"
    assert.equal(ends, values[3])
    assert.equal(ends, opened.metadata.expires_at)
  end)

  for written, recorded in pairs { ["null"] = json.null, ["'infinity'"] = "infinity",
    ["'12345-06-07'"] = "12345-06-07T00:00:00Z" } do
    it("with a licence that never ends says so in the way of each place: " .. written, function()
      world:customer("PHONE-1", { expires = written })
      assert(world:worker():drain())
      local values, opened, file = world:open "PHONE-1"
      assert.equal("9999-12-31T23:59:59Z", values[3])
      assert.equal(json.null, opened.metadata.expires_at)
      assert.equal(recorded, file.expires_at)
    end)
  end

  for _, params in ipairs { '5', '"text"', '["a"]' } do
    it("fails for good when its parameters are no object: " .. params, function()
      world:customer "PHONE-1"
      world:query("update file_generation_queue set generation_params = $1::jsonb", { params })
      assert.equal(1, assert(world:worker():drain()).failed)
      local job = world:jobs()[1]
      assert.equal("failed", job.status)
      assert.equal(0, job.retry_count)
      assert.matches("^params: generation_params: must be a JSON object", job.error_message)
    end)
  end

  it("fails for good when the licence has ended before its turn", function()
    world:customer "PHONE-1"
    world:query "update licenses set expires_at = now() - interval '1 second'"
    local counts = assert(world:worker():drain())
    assert.equal(0, counts.completed)
    local job = world:jobs()[1]
    assert.equal("failed", job.status)
    assert.equal("licence_expired", job.error_code)
    assert.matches("licence_expired", job.error_message)
    assert.same({}, world:keys())
  end)

  it("is made with the newest keys, by a worker that runs since before they were", function()
    world:customer "PHONE-1"
    local w = world:worker()
    assert(w:drain())
    local old = world:file("PHONE-1").master_key_id
    local ring = keyring.load(world.dir .. "/keyring.json")
    assert(ring:rotate { master = true })
    world:query("select requeue_ate_files($1)", { old })
    assert(w:drain())
    world.ring = assert(keyring.load(world.dir .. "/keyring.json"))
    assert.equal(select(2, world.ring:master()), world:file("PHONE-1").master_key_id)
    world:open "PHONE-1"
  end)

  it("is made with the newest keys, also when they were made while the worker was starting", function()
    world:customer "PHONE-1"
    assert(assert(keyring.load(world.dir .. "/keyring.json")):rotate { master = true })
    assert(world:worker():drain()) -- with the world's ring, which was read before
    world.ring = assert(keyring.load(world.dir .. "/keyring.json"))
    assert.equal(select(2, world.ring:master()), world:file("PHONE-1").master_key_id)
  end)
end)

describe("a template", function()
  local world

  before_each(function()
    world = worlds.new { template = false }
  end)

  after_each(function()
    world:close()
  end)

  -- A 20 MB asset that takes no room on the disk.
  local function with_asset(folder)
    assert(os.execute(("truncate -s 20M %s/movie.bin"):format(folder)))
  end

  local LARGE = { version = "1.0.0", file_structure = json.array {
    { file = "main.lua", type = "lua", required = true }, { file = "movie.bin", type = "binary", required = true } } }

  local function drain_one(w)
    world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    local counts = assert((w or world:worker()):drain())
    return counts, counts.failed > 0 and world:jobs()[1].error_message or nil
  end

  it("of kind winzip-aes256 becomes a ZIP that opens with the licence key as shown", function()
    world:template { manifest = { container = "winzip-aes256" } }
    world:customer "PHONE-1"
    local counts, reason = drain_one()
    assert.equal(1, counts.completed, reason)
    local values, opened, file = world:open "PHONE-1"
    assert.equal("PHONE-1", values[1])
    assert.equal("winzip-aes256", opened.container)
    assert.equal("winzip-aes256", file.container)
    assert.equal(json.null, file.signer_id)
    assert.equal(opened.checksum, file.checksum)
    assert.equal(crypto.hex(crypto.sha256((licence.normalise(values[2])))), file.encryption_key_hash)
    local code, text = program.shell(("7z t -p%s %s/%s"):format(values[2], world.store.root, file.file_path))
    assert.equal(0, code, text)
  end)

  it("with a large asset goes through files, in either container, and leaves none", function()
    for i, container in ipairs { "ate1", "winzip-aes256" } do
      local manifest = { name = "large" .. i, container = container, file_structure = json.array {
        { file = "main.lua", type = "lua", required = true }, { file = "movie.mp4", type = "binary", required = true } } }
      world:query "update ate_templates set is_active = false"
      world:template { manifest = manifest, prepare = function(folder)
        assert(os.execute(("head -c 20M /dev/urandom >%s/movie.mp4"):format(folder)))
      end }
      world:customer("PHONE-" .. i)
      local w = world:worker()
      local counts, reason = drain_one(w)
      assert.equal(1, counts.completed, reason)
      local values, opened, file = world:open("PHONE-" .. i)
      assert.equal("PHONE-" .. i, values[1])
      assert.equal(container, opened.container)
      assert.equal(opened.checksum, file.checksum)
      local sizes = {}
      for _, entry in ipairs(opened.entries) do
        sizes[entry.name] = entry.size
      end
      assert.equal(20 << 20, sizes["movie.mp4"])
      assert.equal("", world:leftovers())
    end
  end)

  it("with a large asset has its lease renewed for as long as it may take", function()
    world:template { manifest = LARGE, prepare = with_asset }
    assert(world.conn:exec [[create table leases (seconds float8);
      create function note() returns trigger language plpgsql as $$ begin
        insert into public.leases values (extract(epoch from new.lease_until - clock_timestamp())); return new; end $$;
      create trigger note before update on file_generation_queue for each row
        when (old.lease_until is not null and new.lease_until is not null) execute function note()]])
    world:customer "PHONE-1"
    assert.equal(1, drain_one().completed)
    assert.is_true(world:value "select max(seconds) from leases" > world.config.worker_lease + 5)
  end)

  it("whose asset changed on the disk waits, names it, and works again once it is as published", function()
    local folder = world:template { manifest = LARGE, prepare = with_asset }
    world:customer "PHONE-1"
    local w = world:worker()
    assert.equal(1, drain_one(w).completed)
    assert(os.execute(("cp -p %s/movie.bin %s/kept && printf x >>%s/movie.bin"):format(folder, world.dir, folder)))
    world:query "select queue_ate_generation('PHONE-1', 'tools')"
    drain_one(w)
    local job = world:jobs("q.status = 'queued'")[1]
    assert.matches("movie.bin: changed on the disk", job.error_message, 1, true)
    assert.equal("template_version", job.error_code)
    assert.equal("", world:leftovers())
    assert(os.execute(("cp %s/kept %s/movie.bin"):format(world.dir, folder)))
    world:query "update file_generation_queue set run_after = now() where status = 'queued'"
    assert.equal(2, drain_one(w).completed)
    assert.same({ {}, {} }, { world:differences() })
  end)

  it("that was changed without a new version is refused, and says what to do", function()
    local folder = world:template {}
    world:customer "PHONE-1"
    worlds.write(folder .. "/follow.lua", "return 'other'\n")
    drain_one()
    local job = world:jobs()[1]
    assert.equal("template_version", job.error_code)
    assert.matches("template tools 1.0.0: its files differ from the published ones; give it a new version",
      job.error_message, 1, true)
    assert.equal("queued", job.status, "another host may have the right ones")
    assert.is_true(job.waits)
  end)

  it("of another version than this host has, or that it lacks, waits for a host that has it", function()
    local folder = world:template {}
    world:template { manifest = { version = "2.0.0" } }
    world:template { publish = false }
    world:customer "PHONE-1"
    drain_one()
    local job = world:jobs()[1]
    assert.matches("version 2.0.0 is wanted, this host has tools 1.0.0", job.error_message, 1, true)
    assert.equal("queued", job.status)
    program.shell("rm -r " .. folder)
    drain_one()
    job = world:jobs()[1]
    assert.matches("No such file or directory", job.error_message)
    assert.equal(2, job.retry_count)
  end)

  it("that is broken fails at once, with file, line and reason", function()
    world:template { files = { ["main.lua"] = "local x = \"{{device_hash}}\"\nlocal y = {{nonsense}}\n" } }
    world:customer "PHONE-1"
    assert.equal(1, drain_one().failed)
    local job = world:jobs()[1]
    assert.equal("failed", job.status)
    assert.equal(0, job.retry_count)
    assert.equal("template", job.error_code)
    assert.matches("main.lua:2:", job.error_message, 1, true)
    assert.matches("nonsense", job.error_message, 1, true)
    assert.same({}, world:keys())
  end)

  it("whose required variable has no value fails at once, and names it", function()
    world:template { manifest = { required_variables = json.array { "nobody_sets_this" } } }
    world:customer "PHONE-1"
    assert.equal(1, drain_one().failed)
    local job = world:jobs()[1]
    assert.equal("failed", job.status)
    assert.matches("no value for the required variable nobody_sets_this", job.error_message, 1, true)
  end)

  it("takes what is asked for the job as params", function()
    world:template { files = { ["main.lua"] = "return {{params}}\n" } }
    world:customer "PHONE-1"
    world:query [[update file_generation_queue set generation_params = '{"colour": "赤", "n": [1, 2]}']]
    assert.equal(1, drain_one().completed)
    local values, _, file = world:open "PHONE-1"
    assert.same({ colour = "赤", n = { 1, 2 } }, values)
    assert.same("赤", file.generated_variables.params.colour)
  end)
end)
