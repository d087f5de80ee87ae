-- The command as an operator runs it, over installations that lack one thing after another.
local json = require "atelier.json"
local pg = require "atelier.pg"
local postgres = require "postgres"
local program = require "spec.support.program"
local store = require "doctor.store"

describe("atelier doctor", function()
  local state

  setup(function()
    state = program.folder()
  end)

  teardown(function()
    postgres.stop { dir = state .. "/postgres" }
    program.remove(state)
  end)

  local function run(words, env)
    env = env or {}
    env.ATELIER_STATE = env.ATELIER_STATE or state
    return program.run(words, env)
  end

  -- What it finds: exit code, and findings by "part what".
  local function examine(env)
    local code, text, err = run({ "doctor", "--json" }, env)
    local answer = assert(json.decode(text), text .. err)
    local found = {}
    for _, finding in ipairs(answer.findings) do
      found[finding.part .. " " .. finding.what] = finding
    end
    return code, found, text
  end

  it("says that the schema is not there, and how to make it", function()
    local code, found, text = examine()
    assert.equal(1, code)
    local answer = json.decode(text)
    assert.same({ false, "findings" }, { answer.ok, answer.code })
    assert.matches("^%d to mend; the first: database: schema: ", answer.message)
    assert.equal("fail", found["database schema"].status)
    assert.matches("atelier migrate", found["database schema"].remedy, 1, true)
    assert.equal("ok", found["database connection"].status)
    assert.equal("ok", found["store delete"].status)
    assert.equal("warn", found["keys key ring"].status)
  end)

  it("wonders whether half of a project is meant, and takes its key from a file", function()
    local project = { SUPABASE_URL = "http://127.0.0.1:9" }
    local _, found = examine(project)
    assert.equal("warn", found["store choice"].status)
    assert.matches("SUPABASE_SERVICE_ROLE_KEY is not set", found["store choice"].detail, 1, true)
    local path = state .. "/key"
    local file <close> = assert(io.open(path, "w"))
    file:write "sb_secret_of_the_spec\n"
    file:close()
    project.SUPABASE_SERVICE_ROLE_KEY_FILE = path
    _, found = examine(project)
    assert.is_nil(found["store choice"])
    assert.equal("fail", found["store write"].status)
  end)

  it("finds a new installation in order but for what is not published", function()
    assert.equal(0, (run { "migrate" }))
    assert.equal(0, (run { "keys", "new" }))
    local code, found = examine()
    assert.equal(0, code)
    assert.equal("warn", found["templates templates"].status)
    assert.equal(0, (run { "template", "publish", "smartgram" }))
    code, found = examine()
    assert.equal(0, code)
    for name, finding in pairs(found) do
      assert.is_true(finding.status == "ok" or name == "host disk" or name == "host descriptors", name)
    end
    local text
    code, text = run { "doctor" }
    assert.equal(0, code)
    assert.matches("in order, 0 to look at, 0 to mend", text, 1, true)
  end)

  it("sees a ring that has lost a key that files were made with", function()
    local url = select(2, run { "env" }):match "'(.-)'"
    local conn = assert(pg.connect(url))
    assert(conn:exec [[
      insert into auth.users (id) values ('d0000000-0000-4000-8000-00000000000a');
      insert into devices (id, user_id, device_hash, status) values ('d0000000-0000-4000-8000-00000000000b',
        'd0000000-0000-4000-8000-00000000000a', 'DOC-1', 'registered');
      insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum,
        encryption_key_hash, master_key_id)
      select 'd0000000-0000-4000-8000-00000000000b', id, 'f', 'generated/DOC-1/x', 1, 'c', 'h', 'lost' from ate_templates]])
    conn:close()
    local exit, found = examine()
    assert.equal(1, exit)
    assert.equal("fail", found["keys master keys"].status)
    assert.matches("lost", found["keys master keys"].detail, 1, true)
  end)

  it("tells what is wrong with each address and key, and shows no secret", function()
    for _, case in ipairs {
      { { DATABASE_URL = "postgres://nobody:hush-hush@127.0.0.1:1/x" }, "database connection" },
      { { SUPABASE_JWT_SECRET = "hush-hush-hush-hush" }, "tokens secret" },
      { { ATELIER_JWKS_URL = "http://127.0.0.1:1/jwks" }, "tokens key set" },
      { { ATELIER_STORE = "s3", AWS_ENDPOINT_URL = "http://127.0.0.1:1", ATELIER_BUCKET = "bucket",
        AWS_ACCESS_KEY_ID = "a", AWS_SECRET_ACCESS_KEY = "hush-hush" }, "store write" },
      { { ATELIER_STORE = "s3" }, "store store" },
      { { ATELIER_CHECK = "no" }, "host jail" },
    } do
      local _, found, text = examine(case[1])
      local finding = assert(found[case[2]], case[2])
      assert.is_true(finding.status ~= "ok", case[2])
      assert.is_true(#finding.remedy > 5)
      assert.is_nil(text:find("hush", 1, true))
    end
  end)

  it("warns of a store that is reached without TLS, but not of this host's own", function()
    for url, is_open in pairs {
      ["http://store.example:1"] = true, ["HTTP://127.store.example"] = true, ["http://localhost.example"] = true,
      ["http://127.0.0.1:1"] = false, ["http://localhost:1"] = false, ["http://localhost"] = false, ["http://[::1]:1"] = false,
      ["https://store.example:1"] = false,
    } do
      for kind, key in pairs { supabase = "supabase_url", s3 = "s3_endpoint", ["local"] = "s3_endpoint" } do
        local found = {}
        store.way({ [key] = url }, kind, function(status, what) found[what] = status end)
        assert.equal(is_open and kind ~= "local" and "warn" or nil, found.way, url)
      end
    end
    local _, found = examine { ATELIER_STORE = "s3", AWS_ENDPOINT_URL = "http://0.0.0.0:1", ATELIER_BUCKET = "bucket",
      AWS_ACCESS_KEY_ID = "a", AWS_SECRET_ACCESS_KEY = "hush-hush" }
    assert.equal("warn", found["store way"].status)
    assert.equal("fail", found["store write"].status)
  end)
end)
