local config = require "config"
local evaluate = require "config.evaluate"
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

  it("refuses a file that ends just when its time does, and leaves nothing behind", function()
    local path = dir .. "/atelier.conf.lua"
    local function ends(steps)
      local file = assert(io.open(path, "w"))
      file:write(("for _ = 1, %d do end return {}"):format(steps))
      file:close()
      local called, values, message = pcall(evaluate.evaluate, path)
      assert.is_true(called, values)
      assert.is_nil(debug.gethook())
      assert.equal("xx", ("x"):rep(2))
      if not values then assert.matches("runs on and on", message, 1, true) end
      return values ~= nil
    end
    local good, bad = 999000, 1000000
    assert.is_true(ends(good))
    while bad - good > 1 do
      local middle = (good + bad) // 2
      if ends(middle) then good = middle else bad = middle end
    end
    for steps = good - 3, good + 8 do
      assert.equal(steps <= good, ends(steps))
    end
  end)

  it("gives a file no memory to speak of", function()
    for _, text in ipairs { "local s = 'x' while true do s = s .. s end", "return { ('x'):rep(1 << 30) }", -- texts have no methods
      "local t = {} while true do t = { t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t } end",
      "local s = 'x' while true do s = s" .. (" .. s"):rep(100) .. " end" } do
      local before = collectgarbage "count"
      local none, message, code = load_text(text)
      assert.is_nil(none)
      assert.equal("config", code)
      assert.truthy(message:find("megabyte", 1, true) or message:find("index a string value", 1, true), message)
      collectgarbage()
      assert.is_true(collectgarbage "count" < before + 10000)
    end
    assert.equal("xx", ("x"):rep(2))
    assert.matches("has more than a megabyte", select(2, load_text("return {}" .. (" "):rep(1 << 20))), 1, true)
    assert.matches("has more than a megabyte", select(2, config.load "/dev/zero"), 1, true)
  end)

  it("refuses what has not the form that it needs, with an example", function()
    local empty = dir .. "/empty"
    io.open(empty, "w"):close()
    for text, expected in pairs {
      ["cors_origins = { 'nonsense' }"] = 'cors_origins must be an origin without a path, as in "https://shop.example", '
        .. 'or "*", not "nonsense"',
      ["cors_origins = { 'https://a.b', 'https://a.b/c' }"] = "cors_origins must be an origin",
      ["default_template = 'UP CASE'"] = 'as in "smartgram", not "UP CASE"',
      ["supabase_url = 'ftp://x'"] = 'supabase_url must be a web address, as in "https://ref.supabase.co", not "ftp://x"',
      ["supabase_url = 'https://user:pw@x'"] = "supabase_url must be",
      ["supabase_url = 'http://10.0.0.1'"] = "where no token keys can be fetched",
      ["s3_endpoint = 'https://x/y?z'"] = "s3_endpoint must be a server's address",
      ["s3_endpoint = 'https://x/y%20z'"] = "s3_endpoint must be a server's address",
      ["jwks_url = 'http://10.0.0.1/k'"] = "jwks_url must be https, or http on this machine",
      ["trusted_proxies = { '10.0.0.0/33' }"] = 'trusted_proxies must be an address or a network, as in "10.0.0.0/8"',
      ["metrics_allow = { 'all' }"] = "metrics_allow must be an address",
      ["jwt_secret = 'a'"] = "jwt_secret must have 16 characters or more",
      [("jwt_secret_file = %q"):format(empty)] = "empty is empty",
      ["jwt_secret_file = ''"] = "jwt_secret_file must be the path of a file",
      ["database_url = ''"] = "database_url is empty",
      ["storage_dir = ''"] = "storage_dir is empty",
    } do
      local none, message, code = load_text("return { " .. text .. " }")
      assert.is_nil(none, text)
      assert.equal("config", code)
      assert.matches(expected, message, 1, true)
    end
    assert(load_text [[return { cors_origins = { "*", "http://[::1]:3000", "https://a.b/" }, jwt_secret = ("0123456789abcdef"),
      supabase_url = "http://127.0.0.1:54321", trusted_proxies = { "10.0.0.0/8", "::1" }, s3_endpoint = "https://s3.x:9000" }]])
    assert(load_text [[return { s3_endpoint = "https://ref.supabase.co/storage/v1/s3" }]])
    assert(load_text [[return { supabase_url = "http://kong:8000", jwks_url = "https://id.example/jwks" }]])
    local own = assert(load_text [[return { supabase_url = "http://kong:8000", jwt_secret = "sixteen letters." }]])
    assert.is_nil(assert(require("api.auth").of_config(own)).keys)
  end)

  it("keeps what is sound for those who can do without the rest", function()
    local path = dir .. "/atelier.conf.lua"
    load_text "return { state_dir = '/srv/a', fronts = 0, nonsense_at_all = 1 }"
    local values, problems = config.look(path)
    assert.same({ "/srv/a", 1, 2 }, { values.state_dir, values.fronts, #problems })
    load_text "return {"
    values, problems = config.look(path)
    assert.same({ 32, 1 }, { values.worker_batch, #problems })
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
