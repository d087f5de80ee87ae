-- `atelier generate` where files go to Supabase Storage: the real program, from the empty database to the opened file.
local json = require "atelier.json"
local postgres = require "spec.support.postgres"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"

local CUSTOMER = [[
  insert into auth.users (id) values ('00000000-0000-4000-8000-000000000001');
  insert into devices (user_id, device_hash, device_model, status)
    values ('00000000-0000-4000-8000-000000000001', 'PHONE-1', 'phone', 'active');
  insert into licenses (device_id, is_valid, expires_at) select id, true, now() + interval '1 day' from devices;
  insert into subscriptions (device_id, status, plan_id) select id, 'active', 'pro' from devices]]

describe("atelier generate, with a remote store", function()
  local server, dir, env, url

  setup(function()
    server, dir = stand_in.start(), program.folder()
    url = postgres.database "generate"
    env = { DATABASE_URL = url, ATELIER_STATE = dir, SUPABASE_URL = server.url,
      SUPABASE_SERVICE_ROLE_KEY = stand_in.KEY, ATELIER_LOG = "error" }
  end)

  teardown(function()
    server:stop()
    program.remove(dir)
  end)

  local function ask(...)
    local words = { ... }
    words[#words + 1] = "--json"
    local code, out, err = program.run(words, env)
    return code, assert(json.decode(out), out .. err), err
  end

  local function slurp(path)
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end

  it("migrates, publishes, generates, copies out and opens", function()
    assert.equal(0, (ask "migrate"))
    assert.equal(0, (ask("template", "publish", "smartgram")))
    assert.is_true(#server:control("/seen").buckets == 1)
    postgres.run(url, CUSTOMER)
    local path = dir .. "/out.ate"
    local code, answer, err = ask("generate", "--device", "PHONE-1", "--out", path)
    assert.equal(0, code, (answer.message or "") .. err)
    assert.equal(json.null, answer.path)
    assert.matches("^generated/PHONE%-1/smartgram_.*%.ate$", answer.file_path)
    assert.equal(answer.size, #slurp(path))
    local _, licence = ask("license", "--device", "PHONE-1")
    local opened, whole = ask("open", path, "--device", "PHONE-1", "--license", licence.license_key)
    assert.equal(0, opened, whole.message)
    assert.equal("pro", whole.metadata.plan)
    assert.equal(answer.checksum, (program.shell("sha256sum " .. path) == 0) and select(2, program.shell("sha256sum " .. path))
      :match "^%x+")
  end)

  it("prints the object's key to a person", function()
    local code, out = program.run({ "generate", "--device", "PHONE-1" }, env)
    assert.equal(0, code)
    assert.matches("stored as +generated/PHONE%-1/smartgram_", out)
  end)

  it("leaves nothing where the store fails while it is copied out", function()
    server:control("/fault", { times = 100, method = "GET", after = 2, status = 503 })
    local code, answer = ask("generate", "--device", "PHONE-1", "--out", dir .. "/half.ate")
    server:control "/calm"
    assert.equal(1, code)
    assert.equal("unavailable", answer.code)
    assert.matches("status 503", answer.message, 1, true)
    assert.equal("", select(2, program.shell(("ls -A %s | grep -E 'half|\\.atelier'"):format(dir))))
  end)
end)
