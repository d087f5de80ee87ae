local config = require "config"
local contract = require "spec.storage.contract"
local program = require "spec.support.program"
local secret = require "storage.secret"
local stand_in = require "spec.support.supabase"
local storage = require "storage"
local stdlib = require "posix.stdlib"

describe("storage.secret", function()
  local dir

  before_each(function()
    dir = program.folder()
  end)

  after_each(function()
    program.remove(dir)
  end)

  local function write(name, text)
    local file <close> = assert(io.open(dir .. "/" .. name, "w"))
    file:write(text)
  end

  local function load(text)
    write("conf.lua", text)
    return assert(config.load(dir .. "/conf.lua"))
  end

  it("reads what comes from files at each use, and what does not once", function()
    write("key", "first\n")
    local keys = secret.new(load(("return { s3_access_key = 'fixed', s3_secret_key_file = %q }"):format(dir .. "/key")),
      { "s3_access_key", "s3_secret_key", "s3_session_token" })
    assert.same({ s3_access_key = "fixed", s3_secret_key = "first" }, keys:values())
    local mark = keys:mark()
    write("key", "second \n")
    assert.equal(mark, keys:mark())
    assert.not_equal(mark, keys:mark(true))
    assert.equal("second", keys:values().s3_secret_key)
  end)

  it("keeps what it had while a file is away or empty", function()
    write("key", "first")
    local keys = secret.new(load(("return { s3_secret_key_file = %q }"):format(dir .. "/key")), { "s3_secret_key" })
    write("key", "\n")
    assert.equal("first", keys:values().s3_secret_key)
    os.remove(dir .. "/key")
    assert.equal("first", keys:values().s3_secret_key)
  end)

  it("leaves the file alone where the environment has the secret", function()
    write("key", "of the file")
    stdlib.setenv("AWS_SECRET_ACCESS_KEY", "of the environment")
    finally(function()
      stdlib.setenv("AWS_SECRET_ACCESS_KEY", nil)
    end)
    local keys = secret.new(load(("return { s3_secret_key_file = %q }"):format(dir .. "/key")), { "s3_secret_key" })
    assert.equal("of the environment", keys:values().s3_secret_key)
  end)

  it("heals a running store when the key is changed on the disk", function()
    local server = stand_in.start()
    finally(function()
      server:stop()
    end)
    write("key", "wrong")
    local values = load(("return { storage = 'supabase', supabase_url = %q, supabase_service_role_key_file = %q }")
      :format(server.url, dir .. "/key"))
    values.state_dir = dir
    local store <close> = assert(storage.open(values))
    local none, message, code = contract.put(store, "generated/d/1", { "x" })
    assert.is_nil(none)
    assert.equal("denied", code)
    assert.matches("SUPABASE_SERVICE_ROLE_KEY", message, 1, true)
    assert.is_nil(message:find("wrong", 1, true))
    assert.equal("denied", select(3, store:look("generated/d/1", 60)))
    write("key", stand_in.KEY .. "\n")
    assert.is_true(contract.put(store, "generated/d/1", { "x" }))
    assert.equal(1, assert(store:look("generated/d/1", 60)).size)
  end)
end)
