-- The whole path as a person walks it: the real program, a private Postgres of its own, real files.
local database = require "spec.support.postgres"
local json = require "atelier.json"
local postgres = require "postgres"
local program = require "spec.support.program"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"

local DEVICES = { "DEMO-STARTER-001", "DEMO-PRO-001", "DEMO-MAX-001" }

describe("atelier", function()
  local state, out

  local function run(words, env)
    env = env or {}
    env.ATELIER_STATE = state
    return program.run(words, env)
  end

  -- Runs with --json and returns the exit code and the decoded object.
  local function ask(words, env)
    words[#words + 1] = "--json"
    local code, text, err = run(words, env)
    local object, problem = json.decode(text)
    assert(object, ("%s\nstdout: %s\nstderr: %s"):format(problem, text, err))
    assert.equal(1, select(2, text:gsub("\n", "\n")), "one line")
    return code, object
  end

  local function licence_of(device)
    return (select(2, ask { "license", "--device", device })).license_key
  end

  setup(function()
    state = program.folder()
    out = program.folder()
  end)

  teardown(function()
    assert(postgres.stop { dir = state .. "/postgres" })
    program.remove(state)
    program.remove(out)
  end)

  it("refuses to generate before the schema is there, and says what to do", function()
    local code, answer = ask { "generate", "--device", "DEMO-PRO-001" }
    assert.equal(1, code)
    assert.is_false(answer.ok)
    assert.equal("schema", answer.code)
    assert.matches("atelier migrate", answer.message, 1, true)
  end)

  it("migrates, and does nothing the second time", function()
    local code, answer = ask { "migrate", "--dry-run" }
    assert.equal(0, code)
    assert.is_true(answer.dry_run)
    assert.equal("nothing was changed", answer.message)
    for _, migration in ipairs(answer.migrations) do
      assert.equal("would_apply", migration.state, migration.name)
    end
    local _, text = run { "migrate", "--dry-run" }
    assert.matches("10_ate_file_system.sql +would apply", text)
    code, answer = ask { "migrate" }
    assert.equal(0, code)
    assert.is_true(#answer.migrations >= 3)
    code, answer = ask { "migrate", "--status" }
    assert.equal(0, code)
    for _, migration in ipairs(answer.migrations) do
      assert.equal("applied", migration.state, migration.name)
    end
  end)

  it("shows the demo: three purchases, three files, opened and verified", function()
    local code, text, err = run({ "demo" }, { SERVE = "0" })
    assert.equal(0, code, text .. err)
    for _, device in ipairs(DEVICES) do
      assert.matches(device, text, 1, true)
    end
    assert.matches("another device is refused", text, 1, true)
    assert.is_nil(text:find("\27", 1, true), "no colour without a terminal")
  end)

  it("can show the demo again", function()
    assert.equal(0, (run({ "demo" }, { SERVE = "0" })))
  end)

  it("generates a device's file and copies it out whole", function()
    local path = out .. "/pro.ate"
    local code, answer = ask { "generate", "--device", "DEMO-PRO-001", "--out", path }
    assert.equal(0, code)
    assert.equal("pro", answer.plan)
    local file = assert(io.open(path, "rb"))
    assert.equal(answer.size, #file:read "a")
    file:close()
    assert.matches("^DEMO%-PRO%-001_%d+%.ate$", answer.filename)
  end)

  it("opens the file with its key, in whatever form the key is written", function()
    local key = licence_of "DEMO-PRO-001"
    for _, form in ipairs { key, key:lower(), (key:gsub("-", "")), (key:lower():gsub("-", "")) } do
      local code, answer = ask { "open", out .. "/pro.ate", "--device", "DEMO-PRO-001", "--license", form }
      assert.equal(0, code)
      assert.equal("DEMO-PRO-001", answer.metadata.plan and "DEMO-PRO-001")
      assert.equal("pro", answer.metadata.plan)
    end
  end)

  it("takes the key from a file or the environment too", function()
    local key = licence_of "DEMO-PRO-001"
    local file = assert(io.open(out .. "/key", "w"))
    file:write(key, "\n")
    file:close()
    local words = { "open", out .. "/pro.ate", "--device", "DEMO-PRO-001" }
    assert.equal(0, (run { words[1], words[2], words[3], words[4], "--license-file", out .. "/key" }))
    local marked = assert(io.open(out .. "/marked", "w")) -- as an editor on Windows saves it
    marked:write("\u{FEFF}", key, "\r\n")
    marked:close()
    assert.equal(0, (run { words[1], words[2], words[3], words[4], "--license-file", out .. "/marked" }))
    for _, path in ipairs { "/dev/null", out, "/dev/zero" } do
      local code, _, err = run { words[1], words[2], words[3], words[4], "--license-file", path }
      assert.equal(3, code)
      assert.matches("licence file: " .. path, err, 1, true)
    end
    assert.equal(0, (run(words, { ATELIER_LICENSE = key })))
    local code, _, err = run(words)
    assert.equal(2, code)
    assert.matches("ATELIER_LICENSE", err, 1, true)
  end)

  it("unpacks only what the plan has", function()
    local key = licence_of "DEMO-PRO-001"
    local dir = out .. "/pro"
    local code = run { "open", out .. "/pro.ate", "--device", "DEMO-PRO-001", "--license", key, "-x", dir }
    assert.equal(0, code)
    local _, listing = program.shell("ls " .. dir)
    assert.matches("main.lua", listing, 1, true)
    assert.matches("follow.lua", listing, 1, true)
    assert.is_nil(listing:find("basic_analysis", 1, true))
    local main = assert(io.open(dir .. "/main.lua"))
    local text = main:read "a"
    main:close()
    assert.matches('local device_hash = "DEMO-PRO-001"', text, 1, true)
    assert.matches(key, text, 1, true)
  end)

  it("refuses a wrong key and a wrong device with exit code 3", function()
    local pro, max = licence_of "DEMO-PRO-001", licence_of "DEMO-MAX-001"
    for _, try in ipairs {
      { "DEMO-MAX-001", pro, "wrong_key" }, { "DEMO-PRO-001", max, "wrong_key" }, { "DEMO-PRO-001", "short", "wrong_key" },
    } do
      local code, answer = ask { "open", out .. "/pro.ate", "--device", try[1], "--license", try[2] }
      assert.equal(3, code)
      assert.equal(try[3], answer.code)
    end
  end)

  it("opens within limits, which options move", function()
    local key = licence_of "DEMO-PRO-001"
    local function with(option, value)
      return { "open", out .. "/pro.ate", "--device", "DEMO-PRO-001", "--license", key, option, value }
    end
    for option, value in pairs { ["--max-entries"] = 2, ["--max-bytes"] = 1000, ["--max-ratio"] = 1 } do
      local code, answer = ask(with(option, value))
      assert.equal(3, code)
      assert.equal("bad_archive", answer.code)
    end
    assert.equal(0, (ask(with("--max-entries", 100000))))
    assert.equal(2, (run(with("--max-entries", -1))))
  end)

  it("verifies by the public key that it lists, without a database", function()
    local _, answer = ask { "keys", "list" }
    local public
    for _, key in ipairs(answer.keys) do
      public = key.current and key.public or public
    end
    local elsewhere = program.folder()
    local code, text = program.run({ "verify", out .. "/pro.ate", "--signer", public, "--json" },
      { ATELIER_STATE = elsewhere, DATABASE_URL = "host=/nonexistent" })
    assert.equal(0, code, text)
    assert.is_true(json.decode(text).ok)
    code, text = program.run({ "verify", out .. "/pro.ate", "--json" }, { ATELIER_STATE = elsewhere })
    assert.equal(3, code)
    assert.equal("unknown_signer", json.decode(text).code)
    local _, listing = program.shell("ls -A " .. elsewhere)
    assert.equal("", listing)
    program.remove(elsewhere)
  end)

  it("refuses an unknown device, an unknown template and a device hash that is none", function()
    local code, answer = ask { "generate", "--device", "NOBODY" }
    assert.equal(3, code)
    assert.equal("unknown_device", answer.code)
    code, answer = ask { "generate", "--device", "DEMO-PRO-001", "--template", "nothing" }
    assert.equal(3, code)
    assert.equal("unknown_template", answer.code)
    code, answer = ask { "license", "--device", "../../etc" }
    assert.equal(3, code)
    assert.equal("unknown_device", answer.code)
  end)

  it("leaves nothing where --out cannot be written", function()
    local code, answer = ask { "generate", "--device", "DEMO-PRO-001", "--out", "/nonexistent/x.ate" }
    assert.equal(1, code)
    assert.matches("/nonexistent/x.ate", answer.message, 1, true)
  end)

  -- Not /dev/null or /dev/stdout themselves: where this fails they would be gone.
  it("refuses to put a file in the place of what is none", function()
    local device, link = out .. "/device", out .. "/link"
    assert(stat.mkfifo(device, 384))
    assert(unistd.link(device, link, true))
    for path, expected in pairs { [device] = "irregular", [link] = "irregular", [out] = "EISDIR", [""] = "usage" } do
      local code, answer = ask { "generate", "--device", "DEMO-PRO-001", "--out", path }
      assert.same({ expected == "usage" and 2 or 1, expected }, { code, answer.code })
    end
    assert.is_true(stat.S_ISFIFO(stat.lstat(device).st_mode) ~= 0)
    assert.is_true(stat.S_ISLNK(stat.lstat(link).st_mode) ~= 0)
  end)

  it("works the queue and lists it", function()
    local code, answer = ask { "work", "--once" }
    assert.equal(0, code)
    assert.equal(0, answer.completed)
    code, answer = ask { "queue", "list", "--status", "completed" }
    assert.equal(0, code)
    assert.is_true(#answer.jobs >= 3)
    local ended = answer.jobs[1].queue_id
    for words, expected in pairs {
      [{ "queue", "retry", "not-a-uuid" }] = "bad_id",
      [{ "queue", "cancel", "00000000-0000-0000-0000-000000000000" }] = "unknown_job",
      [{ "queue", "cancel", ended }] = "bad_state",
      [{ "queue", "retry", ended }] = "bad_state",
    } do
      code, answer = ask(words)
      assert.equal(3, code)
      assert.equal(expected, answer.code)
    end
  end)

  it("rotates keys: old files still open, new ones have new keys", function()
    local old = licence_of "DEMO-PRO-001"
    assert.equal(1, (run({ "keys", "rotate" }, { DATABASE_URL = "postgresql://127.0.0.1:1/none" })))
    local code, answer = ask { "keys", "rotate" }
    assert.equal(0, code)
    assert.equal(4, #answer.keys, "none came of the one without a database")
    assert.is_true(answer.queued >= 3)
    -- Again before a file is made: what the first key made is still to be made anew.
    assert.is_true(select(2, ask { "keys", "rotate" }).queued >= 3)
    assert.equal(old, licence_of "DEMO-PRO-001", "until the file is made anew")
    assert.equal(0, (ask { "work", "--once" }))
    local new = licence_of "DEMO-PRO-001"
    assert.are_not.equal(old, new)
    assert.equal(0, (run { "open", out .. "/pro.ate", "--device", "DEMO-PRO-001", "--license", old }))
    for _, key in ipairs(answer.keys) do
      assert.is_nil(key.secret)
    end
  end)

  it("copies its files to another store, and misses none silently", function()
    for words, expected in pairs { ["local bogus"] = { 2, "usage" }, ["bogus local"] = { 2, "usage" },
      ["local:/typo local:" .. out .. "/x"] = { 3, "no_source" } } do
      local from, to = words:match "(%S+) (%S+)"
      local code, answer = ask { "storage", "copy", from, to }
      assert.same(expected, { code, answer.code })
    end
    assert.equal(0, #select(2, program.shell("ls -d /typo " .. out .. "/x")))
    local code, answer = ask { "storage", "copy", "local", "local:" .. out .. "/copied" }
    assert.same({ 0, true, 0 }, { code, answer.ok, answer.failed }, answer.message)
    assert.equal(0, (program.shell(("rm -r %s/copied/generated/DEMO-PRO-001"):format(out))))
    code, answer = ask { "storage", "copy", "local:" .. out .. "/copied", "local:" .. out .. "/again" }
    assert.same({ 1, false, "incomplete" }, { code, answer.ok, answer.code })
    assert.matches("generated/DEMO%-PRO%-001/.*is recorded, but not to be had", answer.message)
  end)

  it("has no licence key for a template that is none", function()
    local code, answer = ask { "license", "--device", "DEMO-PRO-001", "--template", "nope" }
    assert.same({ 3, "unknown_template" }, { code, answer.code })
  end)

  it("opens and verifies with a configuration that is broken, and warns", function()
    local conf = out .. "/broken.conf.lua"
    local file <close> = assert(io.open(conf, "w"))
    file:write("return { fronts = 0 }")
    file:flush()
    local key = licence_of "DEMO-MAX-001"
    local _, made = ask { "generate", "--device", "DEMO-MAX-001", "--out", out .. "/whole.ate" }
    assert.is_true(made.ok)
    local code, opened = ask({ "open", out .. "/whole.ate", "--device", "DEMO-MAX-001", "--license", key },
      { ATELIER_CONFIG = conf })
    assert.same({ 0, { "config" } }, { code, { table.unpack(opened.warnings) } })
    local verified
    code, verified = ask({ "verify", out .. "/whole.ate" }, { ATELIER_CONFIG = conf })
    assert.same({ 0, { "config" } }, { code, { table.unpack(verified.warnings) } })
  end)

  -- The job fails for a reason that may pass: its template is away for a while.
  local function fail_for_now()
    assert(os.rename(state .. "/files/templates", out .. "/hidden"))
    assert(os.execute(("mkdir -p %s/none"):format(out)))
    local code, _, err = run({ "generate", "--device", "DEMO-MAX-001" }, { ATELIER_TEMPLATES = out .. "/none" })
    assert(os.rename(out .. "/hidden", state .. "/files/templates"))
    assert.equal(1, code)
    for n = 1, 3 do
      assert.matches(("run %d failed: [^\n]*; again "):format(n), err)
    end
    assert.is_nil(err:find("run 4 failed", 1, true))
    return err
  end

  it("waits between the runs of a job that fails for a reason that may pass", function()
    fail_for_now()
  end)

  it("tells of each run, however short the pause behind it", function()
    local url = select(2, run { "env" }):match "^DATABASE_URL='([^']+)'"
    database.run(url, [[create function no_pause() returns trigger language plpgsql as
        'begin new.run_after := old.run_after; return new; end';
      create trigger a_no_pause before update of run_after on file_generation_queue for each row
        when (new.retry_count > old.retry_count) execute function no_pause()]])
    local err = fail_for_now()
    database.run(url, "drop function no_pause cascade")
    assert.equal(3, select(2, err:gsub("; again now\n", "")))
  end)

  it("shows the demo as one object", function()
    local code, answer = ask({ "demo" }, { SERVE = "0" })
    assert.same({ 0, true, 3 }, { code, answer.ok, #answer.files })
    assert.same({ "DEMO-STARTER-001", "starter" }, { answer.files[1].device_hash, answer.files[1].plan })
    assert.matches("^%w+%-", answer.files[3].license_key)
  end)

  it("prints the environment for eval, and stops the private Postgres", function()
    local code, text = run { "env" }
    assert.equal(0, code)
    assert.matches("^DATABASE_URL='[^']+'\n$", text)
    local psql, result = program.shell("eval " .. ("%q"):format(text) .. '; psql -At "$DATABASE_URL" -c "select 7"')
    assert.equal(0, psql)
    assert.equal("7\n", result)
    assert.equal(0, (run { "env", "--stop" }))
    assert.equal(0, (run { "env" }))
  end)
end)

describe("the command line", function()
  it("teaches: help for all and for each, exit code 2 for what it does not understand", function()
    local code, text = program.run {}
    assert.equal(0, code)
    for name in ("demo migrate env generate work queue open verify license keys template config run repl version")
      :gmatch "%S+" do
      assert.matches("\n +" .. name .. " ", text)
      local sub_code, help = program.run { name, "--help" }
      assert.equal(0, sub_code)
      assert.matches("Example:", help, 1, true)
    end
    local wrong = { { "bogus" }, { "--bogus" }, { "generate" }, { "open" }, { "queue" }, { "queue", "retry" } }
    for _, words in ipairs(wrong) do
      local usage, _, err = program.run(words)
      assert.equal(2, usage, table.concat(words, " "))
      assert.matches("Usage: atelier", err, 1, true)
    end
  end)

  it("runs a script with its arguments, and tells its failure", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write "print(arg[0], arg[1], ...) return 7"
    file:close()
    local code, text = program.run { "run", path, "--json", "b" }
    assert.equal(7, code)
    assert.equal(path .. "\t--json\t--json\tb\n", text)
    file = assert(io.open(path, "w"))
    file:write "error 'boom'"
    file:close()
    local failed, _, err = program.run { "run", path }
    assert.equal(1, failed)
    assert.matches("boom", err, 1, true)
    os.remove(path)
    assert.equal(1, (program.run { "run", "/nonexistent.lua" }))
  end)

  it("never runs code of the working folder", function()
    local dir = program.folder()
    for _, name in ipairs { "argparse", "config" } do
      local file = assert(io.open(dir .. "/" .. name .. ".lua", "w"))
      file:write "print 'hijacked' os.exit(9)"
      file:close()
    end
    local code, text = program.shell(("cd %s; LUA_PATH='./?.lua' LUA_INIT='print(1)' %s version --json"):format(dir,
      require("atelier.host").exe))
    program.remove(dir)
    assert.equal(0, code)
    assert.is_true(json.decode(text).ok)
  end)

  it("says that a database is down", function()
    local url = "host=/nonexistent user=u password=s3cret"
    local code, text = program.run({ "work", "--once", "--json" }, { DATABASE_URL = url })
    assert.equal(1, code)
    local answer = json.decode(text)
    assert.equal("connection", answer.code)
    assert.is_nil(text:find("s3cret", 1, true))
  end)
end)
