-- What every command does with words that it cannot take, and with bytes that are not UTF-8.
local json = require "atelier.json"
local program = require "spec.support.program"

describe("atelier refuses", function()
  it("a wrong command line with one JSON object where that is asked for", function()
    for _, words in ipairs {
      { "generate" }, { "generate", "--device" }, { "open", "x.ate", "--nonsense" }, { "queue" }, { "nonsense" }, {},
      { "queue", "list", "--limit", "many" },
    } do
      words[#words + 1] = "--json"
      local code, out = program.run(words)
      assert.equal(2, code)
      local object = assert(json.decode(out), out)
      assert.is_false(object.ok)
      assert.equal("usage", object.code)
      assert.is_true(#object.message > 5)
      assert.same(json.array {}, object.warnings)
    end
  end)

  it("a wrong command line with the usage of the command, for a person", function()
    local code, out, err = program.run { "generate" }
    assert.equal(2, code)
    assert.equal("", out)
    assert.matches("Usage: atelier generate", err, 1, true)
    assert.matches("missing option '--device'", err, 1, true)
  end)

  it("a value that an option cannot take, with the option's name", function()
    for _, words in ipairs { { "queue", "list", "--limit", "many" }, { "queue", "list", "--limit=many" } } do
      local code, _, err = program.run(words)
      assert.equal(2, code)
      assert.matches("option '--limit': malformed argument 'many'", err, 1, true)
    end
  end)

  it("to unpack into a folder without a name", function()
    local code, out = program.run { "open", "x.ate", "--device", "D", "--license", "K", "-x", "", "--json" }
    assert.same({ 2, "usage" }, { code, assert(json.decode(out), out).code })
  end)

  it("names that are not UTF-8 with an object that is", function()
    local code, out = program.run { "open", "/nonexistent/\xff\xe3\x81.ate", "--device", "D", "--license", "K", "--json" }
    local object = assert(json.decode(out), out)
    assert.equal(1, code)
    assert.equal("ENOENT", object.code)
    assert.matches("/nonexistent/\u{FFFD}\u{FFFD}\u{FFFD}.ate", object.message, 1, true)
  end)

  it("--json where it makes no sense, and says so in the help", function()
    for _, name in ipairs { "run", "repl", "man", "completion" } do
      local code, out = program.run { name, "--json" }
      local object = assert(json.decode(out), out)
      assert.same({ 2, false, "usage" }, { code, object.ok, object.code })
      assert.matches(("`atelier %s` has no --json"):format(name), object.message, 1, true)
      assert.matches("There is no --json here", select(2, program.run { name, "--help" }), 1, true)
    end
  end)

  it("nothing silently: with --json a defect of its own, too, is one object", function()
    local dir = program.folder()
    finally(function() program.remove(dir) end)
    local file <close> = assert(io.open(dir .. "/defect.lua", "w"))
    file:write [[
      package.loaded["cli.version"] = { example = "", options = function() end, run = function() error "boom" end }
      os.exit(require("cli").main { "version", "--json" })
    ]]
    file:close()
    local code, out, err = program.run { "run", dir .. "/defect.lua" }
    local object = assert(json.decode(out), out .. err)
    assert.same({ 1, false, "internal" }, { code, object.ok, object.code })
    assert.matches("internal error, please report: .*boom$", object.message)
    assert.matches("stack traceback", err, 1, true)
  end)

  it("ids of jobs that are none, before it asks the database", function()
    for _, action in ipairs { "retry", "cancel" } do
      local code, out = program.run({ "queue", action, "x", "--json" }, { DATABASE_URL = "postgresql://nobody@127.0.0.1:1/x" })
      local object = assert(json.decode(out), out)
      assert.same({ 3, "bad_id" }, { code, object.code })
      assert.matches("x: is no job's id, which is a UUID", object.message, 1, true)
    end
  end)

  it("to print a password", function()
    local dir = program.folder()
    local path = dir .. "/c.lua"
    local function env(text, url)
      local file <close> = assert(io.open(path, "w"))
      file:write(text)
      file:close()
      local code, out, err = program.run({ "env" }, { ATELIER_CONFIG = path, DATABASE_URL = url })
      assert.equal(0, code, err)
      assert.is_nil((out .. err):find("hush", 1, true))
      assert.equal(0, (program.shell("eval " .. ("%q"):format(out))))
      return out, err, json.decode((select(2,
        program.run({ "env", "--json" }, { ATELIER_CONFIG = path, DATABASE_URL = url }))))
    end
    local out, _, object = env("return {}", "postgresql://me:hush@h/d")
    assert.equal("# DATABASE_URL is set in the environment\n", out)
    assert.is_nil(object.database_url)
    out, _, object = env "return { database_url = 'postgresql://me:hu@hush@h/d?sslmode=require' }"
    assert.equal("DATABASE_URL='postgresql://me@h/d?sslmode=require'\n", out)
    assert.same({ "password" }, { table.unpack(object.warnings) })
    for _, password in ipairs { "hu?hush", "hu#hush", "hu/hush" } do
      out, _, object = env(("return { database_url = 'postgresql://me:%s@h/d' }"):format(password))
      assert.is_nil(out:find("hush", 1, true), out)
      assert.is_nil(object.database_url)
    end
    out = env "return { database_url = 'host=h password=hush' }"
    assert.matches("^# ", out)
    assert.equal("DATABASE_URL='postgresql://me@h/d'\n", (env "return { database_url = 'postgresql://me@h/d' }"))
    program.remove(dir)
  end)
end)
