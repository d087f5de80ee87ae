-- The command as an operator runs it, over installations that lack one thing after another.
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local pg = require "atelier.pg"
local postgres = require "postgres"
local program = require "spec.support.program"
local remote = require "doctor.remote"
local stand_in = require "spec.support.supabase"
local store = require "doctor.store"
local template = require "template"

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

  it("looks in the store for a template that this host's folder has not", function()
    local elsewhere = { ATELIER_TEMPLATES = state .. "/no-templates" }
    local _, found = examine(elsewhere)
    local name = "templates smartgram " .. assert(template.load "templates/smartgram.at").version
    assert.equal("ok", found[name].status)
    assert.matches("in the store, %d+ files", found[name].detail)
    assert(os.execute(("rm %s/files/templates/smartgram.at/*/main.lua"):format(state)))
    local code
    code, found = examine(elsewhere)
    assert.equal(1, code)
    assert.equal("fail", found[name].status)
    assert.matches("no-templates/smartgram.at", found[name].detail, 1, true)
    assert.matches("/main.lua", found[name].detail, 1, true)
    assert.equal(0, (run { "template", "publish", "smartgram" }))
    _, found = examine(elsewhere)
    assert.equal("ok", found[name].status)
  end)

  it("tells a ring that others can read, and a role that lacks its grants, from worse", function()
    assert(os.execute("chmod 644 " .. state .. "/keyring.json"))
    local _, found = examine()
    assert.equal("fail", found["keys key ring"].status)
    assert.matches("chmod", found["keys key ring"].remedy, 1, true)
    assert(os.execute("chmod 600 " .. state .. "/keyring.json"))
    local url = select(2, run { "env" }):match "'(.-)'"
    local conn = assert(pg.connect(url))
    assert(conn:exec "create role doctor_weak login")
    local weak = url:gsub("//[^@]*@", "//doctor_weak@")
    _, found = examine { DATABASE_URL = weak }
    assert.equal("fail", found["database schema"].status)
    assert.matches("grant authenticated, service_role", found["database schema"].remedy, 1, true)
    assert(conn:exec "grant authenticated, service_role to doctor_weak")
    _, found = examine { DATABASE_URL = weak }
    assert.equal("ok", found["database schema"].status)
    assert(conn:exec "drop role doctor_weak")
    conn:close()
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

  -- What an examination tells, by what it is about.
  local function told(f, ...)
    local found, arguments = {}, table.pack(...)
    arguments.n = arguments.n + 1
    arguments[arguments.n] = function(status, what, detail, remedy)
      found[what] = { status = status, detail = detail, remedy = remedy }
    end
    return found, f(table.unpack(arguments, 1, arguments.n))
  end

  it("names the key that is of another kind", function()
    local function jwt(payload)
      return "eyJhbGciOiJIUzI1NiJ9." .. crypto.base64url_encode(payload) .. ".c2ln"
    end
    for key, kind in pairs { [jwt '{"role":"anon"}'] = "anon", [jwt '{"role":"authenticated"}'] = "authenticated",
      ["sb_publishable_hush"] = "publishable" } do
      local found = told(remote.key, key)
      assert.equal("fail", found.key.status)
      assert.matches("of another kind: " .. kind, found.key.detail, 1, true)
      assert.is_nil((found.key.detail .. found.key.remedy):find(key, 1, true))
    end
    for _, key in ipairs { stand_in.KEY, "sb_secret_x", jwt "[]", jwt "{}", jwt '{"role":7}', "a.b.c", "" } do
      assert.same({}, (told(remote.key, key)))
    end
  end)

  it("wants a project's address without a path", function()
    for url, status in pairs { ["https://x.example/storage/v1"] = "fail", ["https://x.example/rest/v1/"] = "fail",
      ["https://x.example/project"] = "warn", ["https://x.example"] = "none", ["http://[::1]:8000//"] = "none" } do
      local found, is_right = told(remote.address, url)
      assert.equal(status, found.address and found.address.status or "none", url)
      assert.equal(status ~= "fail", is_right, url)
      assert.is_true(not found.address or found.address.remedy:find("Leave the path out", 1, true) ~= nil)
    end
  end)

  describe("at a project", function()
    local server

    before_each(function()
      server = stand_in.start()
    end)

    after_each(function()
      server:stop()
    end)

    local function look(patience)
      local patient = { patience = patience, config = { storage = "supabase", state_dir = state, supabase_bucket = "b",
        supabase_url = server.url, supabase_service_role_key = stand_in.KEY } }
      local found = told(store.run, patient)
      patient.store:close()
      return found
    end

    it("finds all in order", function()
      local found = look()
      assert.equal("ok", found.delete.status)
      assert.is_nil(found.clock)
    end)

    it("warns of a bucket that is open to all", function()
      local found = look()
      assert.equal("ok", found.bucket.status)
      assert.matches("b is private, takes files up to 50 MB", found.bucket.detail, 1, true)
      server:control "/publish-buckets"
      found = look()
      assert.equal("warn", found.bucket.status)
      assert.matches("without any token", found.bucket.detail, 1, true)
      assert.equal("ok", found.delete.status)
    end)

    it("leaves nothing behind where the key may not list", function()
      server:control("/fault", { times = 100, path = "/list-v2/", status = 400,
        body = '{"statusCode":"403","error":"Unauthorized","message":"Access denied","code":"AccessDenied"}' })
      local found = look()
      assert.same({ "ok", "fail" }, { found["read back"].status, found.list.status })
      assert.equal(0, server:control("/seen").buckets[1].objects)
    end)

    it("does not wait long for one that is silent, and names its address", function()
      server:control("/fault", { times = 100, silent = true })
      local found = look(0.2)
      local write = found.write
      assert.is_nil(found["read back"])
      assert.equal("fail", write.status)
      assert.matches(server.url, write.detail, 1, true)
      assert.matches("https or http", write.remedy, 1, true)
    end)

    it("compares the clocks", function()
      for seconds, wanted in pairs { [-7200] = { "fail", "ahead of" }, [7200] = { "fail", "behind" },
        [-150] = { "warn", "ahead of" } } do
        server:control("/fault", { times = 1, method = "HEAD", status = 404,
          headers = { date = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + seconds) } })
        local found = look()
        assert.equal(wanted[1], found.clock.status)
        assert.matches(wanted[2], found.clock.detail, 1, true)
        assert.matches("NTP", found.clock.remedy, 1, true)
        assert.equal("ok", found.delete.status)
      end
    end)
  end)
end)
