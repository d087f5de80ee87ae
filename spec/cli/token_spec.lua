local auth = require "api.auth"
local crypto = require "atelier.crypto"
local json = require "atelier.json"
local program = require "spec.support.program"
local secret = require "api.secret"
local stat = require "posix.sys.stat"

local USER = "D0000000-0000-4000-8000-000000000002"

describe("atelier token", function()
  local dir, env, former
  before_each(function()
    dir = program.folder()
    env = { ATELIER_STATE = dir .. "/state", ATELIER_CONFIG = dir .. "/conf.lua" }
    local file <close> = assert(io.open(env.ATELIER_CONFIG, "w"))
    file:write "return {}\n"
  end)
  after_each(function() program.remove(dir) end)

  before_each(function() former = stat.umask(0) end) -- the modes must not depend on it
  after_each(function() stat.umask(former) end)

  local function slurp(path)
    local file <close> = assert(io.open(path))
    return file:read "a"
  end

  it("makes a user's token, with a secret that it makes once and keeps to itself", function()
    local code, out, err = program.run({ "token", "--user", USER, "--ttl", "2h" }, env)
    assert.equal(0, code, err)
    local path = env.ATELIER_STATE .. "/jwt_secret"
    assert.equal(384, stat.stat(path).st_mode & 511) -- 0600
    assert.equal(0, stat.stat(env.ATELIER_STATE).st_mode & 18, "others may write there") -- 0022
    local key = slurp(path):match "^(%S+)\n$"
    assert.equal(43, #key)
    assert.is_nil((out .. err):find(key, 1, true))
    local identity = auth.new({ secret = key }):require("Bearer " .. out:match "%S+", "user")
    assert.equal(USER:lower(), identity.id)
    assert.equal(7200, identity.claims.exp - identity.claims.iat)
    program.run({ "token", "--operator" }, env)
    assert.equal(key .. "\n", slurp(path))
    assert.equal(key, assert(secret.ensure { state_dir = env.ATELIER_STATE }):reveal())
  end)

  it("has a key ring beside it, which `keys new` makes on a new machine", function()
    local code, out, err = program.run({ "keys", "new", "--json" }, env)
    assert.equal(0, code, out .. err)
    assert.equal(384, stat.stat(env.ATELIER_STATE .. "/keyring.json").st_mode & 511)
    assert.equal(0, stat.stat(env.ATELIER_STATE).st_mode & 18, "others may write there")
  end)

  it("makes an operator's token, as JSON when asked", function()
    env.SUPABASE_JWT_SECRET = "the secret of a project"
    local code, out, err = program.run({ "token", "--operator", "--json" }, env)
    assert.equal(0, code, err)
    local answer = json.decode(out)
    assert.same({ true, "service_role" }, { answer.ok, answer.role })
    local verifier = auth.new { secret = "the secret of a project" }
    assert.equal("service_role", verifier:require("Bearer " .. answer.token, "operator").role)
    assert.is_false((pcall(verifier.require, verifier, "Bearer " .. answer.token, "user")))
    assert.is_nil(stat.stat(env.ATELIER_STATE .. "/jwt_secret"))
  end)

  it("refuses what makes no token", function()
    for _, words in ipairs { {}, { "--user", "me" }, { "--user", USER, "--operator" }, { "--user", USER, "--ttl", "0" },
      { "--user", USER, "--ttl", "1y" }, { "--user", USER, "--ttl", "-5" }, { "--user", USER, "--ttl", "367d" },
      { "--user", USER .. "0" }, { "--user", "" } } do
      local code, out = program.run({ "token", table.unpack(words) }, env)
      assert.equal(2, code)
      assert.equal("", out)
    end
  end)

  it("refuses a secret that others can read, that is damaged or too short", function()
    assert(os.execute("mkdir " .. env.ATELIER_STATE))
    local path = env.ATELIER_STATE .. "/jwt_secret"
    local file = assert(io.open(path, "w"))
    file:write(crypto.hex(crypto.random(16)), "\n")
    file:close()
    stat.chmod(path, 420) -- 0644
    local code, _, err = program.run({ "token", "--operator" }, env)
    assert.equal(1, code)
    assert.matches("others can read it; do: chmod 600", err, 1, true)
    stat.chmod(path, 384)
    assert.equal(0, (program.run({ "token", "--operator" }, env)))
    file = assert(io.open(path, "w"))
    file:write "short\n"
    file:close()
    assert.equal("bad_secret", (select(3, secret.ensure { state_dir = env.ATELIER_STATE })))
    assert.equal("bad_secret", (select(3, secret.ensure { jwt_secret = "short" })))
    os.remove(path)
    assert(os.execute("mkdir " .. path))
    assert.equal("irregular", (select(3, secret.ensure { state_dir = env.ATELIER_STATE })))
  end)
end)
