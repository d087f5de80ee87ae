local config = require "config"
local program = require "spec.support.program"
local stdlib = require "posix.stdlib"

describe("config", function()
  local dir
  local environment = {}

  -- The tester's own settings are put aside.
  before_each(function()
    dir = program.folder()
    for _, key in ipairs(config.keys) do
      if key[4] then
        environment[key[4]] = os.getenv(key[4])
        stdlib.setenv(key[4])
      end
    end
  end)

  after_each(function()
    program.remove(dir)
    for name, value in pairs(environment) do
      stdlib.setenv(name, value)
    end
  end)

  local function load_text(text)
    local path = dir .. "/atelier.conf.lua"
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    return config.load(path)
  end

  it("has a default for everything that the first run needs", function()
    local values = assert(load_text "return {}")
    assert.equal(32, values.worker_batch)
    assert.matches("/var$", values.state_dir)
    assert.equal(values.state_dir .. "/keyring.json", values.keyring)
    assert.equal(values.state_dir .. "/files", values.storage_dir)
  end)

  it("takes values from the file", function()
    local values = assert(load_text "return { worker_batch = 2 * 4, worker_lease = 1.5, state_dir = '/srv/a' }")
    assert.equal(8, values.worker_batch)
    assert.equal(1.5, values.worker_lease)
    assert.equal("/srv/a/keyring.json", values.keyring)
  end)

  it("takes lists of words, and numbers from the environment", function()
    assert.same({ "10.0.0.0/8", "::1" }, load_text("return { trusted_proxies = { '10.0.0.0/8', '::1' } }").trusted_proxies)
    for _, wrong in ipairs { "'::1'", "{ 1 }", "{ a = 'b' }", "{ 'a', nil, 'c' }" } do
      local none, message = load_text("return { trusted_proxies = " .. wrong .. " }")
      assert.is_nil(none)
      assert.matches("trusted_proxies must be a list", message, 1, true)
    end
    stdlib.setenv("ATELIER_PORT", "0")
    assert.equal(0, load_text("return {}").listen_port)
    stdlib.setenv("ATELIER_PORT", "many")
    assert.matches("$ATELIER_PORT: listen_port must be an integer", select(2, load_text "return {}"), 1, true)
    stdlib.setenv("ATELIER_PORT")
    assert.matches("listen_port must be 0 to 65535", select(2, load_text "return { listen_port = -1 }"), 1, true)
    assert.matches("fronts must be above 0", select(2, load_text "return { fronts = 0 }"), 1, true)
  end)

  it("reads a secret from a file", function()
    local file = assert(io.open(dir .. "/url", "w"))
    file:write("postgres://x\n")
    file:close()
    assert.equal("postgres://x", load_text(("return { database_url_file = %q }"):format(dir .. "/url")).database_url)
    local none, message = load_text "return { database_url_file = '/nonexistent' }"
    assert.is_nil(none)
    assert.matches("database_url_file: /nonexistent: No such file", message, 1, true)
  end)

  it("refuses what it does not know, and suggests", function()
    for text, expected in pairs {
      ["return { worker_bach = 3 }"] = "unknown key 'worker_bach'; did you mean 'worker_batch'?",
      ["return { nonsense_at_all = 3 }"] = "unknown key 'nonsense_at_all'; `atelier config` lists them",
      ["return { [1] = 3 }"] = "unknown key '1'",
      ["return { worker_batch = 'x' }"] = 'worker_batch must be an integer, not "x"',
      ["return { worker_batch = 1.5 }"] = "worker_batch must be an integer",
      ["return { worker_batch = 0 }"] = "worker_batch must be above 0",
      ["return { worker_lease = 0/0 }"] = "worker_lease must be above 0",
      ["return { worker_lease = 0.5 }"] = "worker_lease must be 1 to 86400",
      ["return { storage_threads = 65 }"] = "storage_threads must be 1 to 64",
      ["return { database_timeout = 1e400 }"] = "database_timeout must be",
      ["return { log_level = 'loud' }"] = 'log_level must be one of debug, info, warn, error, not "loud"',
      ["return { log_format = 'xml' }"] = "log_format must be one of text, json",
      ["return { state_dir = 'a\\0b' }"] = "state_dir has a NUL byte in it",
      ["return { database_url = { 'postgres://u:pw@h/d' } }"] = "database_url must be a string, not a table",
      ["return 7"] = "must return a table",
      ["while true do end"] = "runs on and on",
      ["return {"] = "unexpected symbol near <eof>",
      ["return os.exit(0)"] = "attempt to index a nil value",
      ["error('x')"] = "attempt to call a nil value",
    } do
      local none, message, code = load_text(text)
      assert.is_nil(none)
      assert.equal("config", code)
      assert.matches(expected, message, 1, true)
    end
  end)

  it("says which file is missing", function()
    local none, message = config.load(dir .. "/none.lua")
    assert.is_nil(none)
    assert.matches("none.lua: No such file", message, 1, true)
  end)

  it("documents every key", function()
    for _, key in ipairs(config.keys) do
      assert.is_string(key[1])
      assert.matches("^[a-z]+$", key[2])
      assert.is_true(#key[5] > 10, key[1])
    end
  end)
end)
