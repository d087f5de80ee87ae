-- A hundred thousand objects in a list, for each driver: all of them, once, in order, page by page.
local contract = require "spec.storage.contract"
local program = require "spec.support.program"
local s3 = require "storage.s3"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local supabase = require "storage.supabase"
local swift = require "spec.support.swift"

local COUNT <const> = 100000
local PREFIX <const> = "generated/many/"

describe("a list of 100,000 objects", function()
  local dir, server

  before_each(function()
    dir = program.folder()
  end)

  after_each(function()
    if server then
      server:stop()
      server = nil
    end
    program.remove(dir)
  end)

  -- Memory is bounded by a page, and the number of pages by that of objects: nothing here depends on the clock.
  local function walk(store)
    local met, pages, after = 0, 0, nil
    repeat
      local entries = assert(store:list(PREFIX, after))
      assert.is_true(#entries <= 1000)
      for _, entry in ipairs(entries) do
        met = met + 1
        assert.equal(("%s%07d"):format(PREFIX, met), entry.key)
        after = entry.key
      end
      pages = pages + 1
    until #entries == 0
    assert.same({ COUNT, 101 }, { met, pages })
    assert.equal(("%s%07d"):format(PREFIX, 77778), store:list(PREFIX, ("%s%07d"):format(PREFIX, 77777))[1].key)
    store:close()
  end

  it("is read from a local disk", function()
    local store = assert(storage.open { storage_dir = dir .. "/files", storage_threads = 1 })
    assert(os.execute(("mkdir -p %s/files/%s && cd %s/files/%s && seq -f %%07g 1 %d | xargs touch"):format(dir, PREFIX, dir,
      PREFIX, COUNT)))
    walk(store)
  end)

  it("is read from Supabase", function()
    server = stand_in.start()
    local store = assert(supabase.open { state_dir = dir, supabase_url = server.url,
      supabase_service_role_key = stand_in.KEY, supabase_bucket = "ate-files" })
    assert.is_true(contract.put(store, "generated/first", { "x" })) -- makes the bucket
    server:control("/fill", { bucket = "ate-files", prefix = PREFIX, count = COUNT })
    walk(store)
  end)

  it("is read from S3", function()
    server = swift.start(dir)
    server:fill(PREFIX, COUNT)
    walk(assert(s3.open { state_dir = dir, s3_endpoint = server.endpoint, s3_region = "us-east-1", s3_bucket = "ate-files",
      s3_access_key = "test:tester", s3_secret_key = "testing" }))
  end)
end)
