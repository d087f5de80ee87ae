-- Deletion of many: in shares, each marked before the next.
local keeper = require "workflow.keeper"
local worlds = require "spec.workflow.support.world"

describe("workflow.purge", function()
  local world

  before_each(function()
    world = worlds.new()
    world:customer "D1"
    assert.equal(1, assert(world:worker():drain()).completed)
    assert(world.conn:exec [[insert into ate_file_versions (ate_file_id, device_id, template_id, artifact_id, generation,
        container, filename, file_path, file_size_bytes, checksum, encryption_key_hash, created_at, retired_at)
      select f.id, f.device_id, f.template_id, gen_random_uuid(), -n, f.container, f.filename, 'generated/D1/old_' || n, 1,
        f.checksum, f.encryption_key_hash, f.created_at, now() - interval '30 days'
      from ate_files f, generate_series(1, 250) n]])
  end)

  after_each(function()
    world:close()
  end)

  -- A keeper over the world's store, and what happened in which order: deletions and signs of life.
  local function observed()
    local events = {}
    local store = setmetatable({ delete = function(_, keys)
      events[#events + 1] = #keys
      return world.store:delete(keys)
    end }, { __index = world.store })
    return keeper.new { conn = world.conn, store = store, config = world.config, settle = 0, on_tick = function()
      events[#events + 1] = "alive"
    end }, events
  end

  it("shows signs of life between the shares of a large batch", function()
    local k, events = observed()
    assert.equal(250, assert(k:round()).purged)
    assert.matches("alive 100 alive 100 alive 50 alive", table.concat(events, " "), 1, true)
    assert.equal(0, world:value "select count(*)::int from ate_file_versions where purged_at is null")
  end)

  it("marks nothing, and asks no further, where the bucket is gone or the key refused", function()
    for _, code in ipairs { "no_bucket", "denied", "unavailable" } do
      local k, events = observed()
      k.sweep.store.delete = function()
        events[#events + 1] = "asked"
        return nil, "storage: s3: delete: " .. code, code
      end
      assert.equal(1, assert(k:round()).failed)
      assert.equal(1, select(2, table.concat(events, " "):gsub("asked", "")), code)
    end
    assert.equal(250, world:value "select count(*)::int from ate_file_versions where purged_at is null")
  end)
end)
