local crypto = require "atelier.crypto"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local licence = require "ate.licence"
local stat = require "posix.sys.stat"
local tmp = require "spec.ate.support.tmp"

local DEVICE = "0f8fad5b-d9cb-469f-a165-70867728950e"

describe("a key ring", function()
  local folder, path

  before_each(function()
    folder = tmp.begin()
    path = folder .. "/keys.json"
  end)

  after_each(tmp.finish)

  it("is created with mode 0600, one current key of each kind, and nothing beside it", function()
    local ring = assert(keyring.create(path))
    assert.equal(384, stat.stat(path).st_mode & 4095)
    assert.equal("./keys.json\n", tmp.list(folder))
    local kinds = {}
    for _, key in ipairs(ring:list()) do
      kinds[key.kind] = key
      assert.is_true(key.current)
      assert.is_nil(key.secret)
    end
    assert.equal(64 // 4, #kinds.master.id)
    assert.is_nil(kinds.master.public)
    assert.equal(32, #crypto.base64_decode(kinds.signing.public))
  end)

  it("is the same after loading", function()
    local made, loaded = assert(keyring.create(path)), assert(keyring.load(path))
    assert.same(made:list(), loaded:list())
    assert.same(made:trusted(), loaded:trusted())
    assert.equal(licence.key(made:master(), DEVICE), licence.key(loaded:master(), DEVICE))
    local signature = made:signer():sign("text")
    local _, id = loaded:signer()
    local public = loaded:trusted()[crypto.unhex(id)]
    assert.is_true(crypto.ed25519_verify(public, "text", signature))
    assert.equal(crypto.sha256(public):sub(1, 8), crypto.unhex(id))
  end)

  it("never replaces another", function()
    assert(keyring.create(path))
    local before = tmp.read(path)
    local ring, message, code = keyring.create(path)
    assert.is_nil(ring)
    assert.equal("EEXIST", code)
    assert.truthy(message:find(path, 1, true))
    assert.equal(before, tmp.read(path))
    assert.equal("./keys.json\n", tmp.list(folder))
  end)

  it("is one and the same for processes that create it at once", function()
    local script = tmp.write(folder .. "/ensure.lua", ([[
      package.path, package.cpath = %q, %q
      local ring = assert(require("ate.keyring").ensure(%q))
      local _, id = ring:master()
      print(id)
    ]]):format(package.path, package.cpath, path))
    local command = {}
    for _ = 1, 8 do command[#command + 1] = "lua5.4 " .. tmp.quote(script) .. " &" end
    local code, output = tmp.run("{ " .. table.concat(command, " ") .. " wait; }")
    assert.equal(0, code)
    local ids, count = {}, 0
    for id in output:gmatch("[^\n]+") do
      ids[id], count = true, count + 1
    end
    assert.equal(8, count)
    assert.equal(next(ids), select(2, assert(keyring.load(path)):master()))
    assert.is_nil(next(ids, (next(ids))))
    assert.equal("./ensure.lua\n./keys.json\n", tmp.list(folder))
  end)

  it("keeps old keys when it rotates", function()
    local ring = assert(keyring.create(path))
    local old_licence, old_id = licence.key(ring:master(), DEVICE), select(2, ring:master())
    local _, old_signer = ring:signer()
    assert(ring:rotate { master = true })
    assert.equal(old_signer, select(2, ring:signer()))
    assert(ring:rotate { signing = true, master = true })
    local loaded = assert(keyring.load(path))
    assert.same(ring:list(), loaded:list())
    assert.equal(5, #loaded:list())
    assert.not_equal(old_id, select(2, loaded:master()))
    assert.equal(old_licence, licence.key(loaded:master(old_id), DEVICE))
    assert.equal(old_signer, select(2, loaded:signer(old_signer)))
    local count = 0
    for id, public in pairs(loaded:trusted()) do
      assert.equal(8, #id)
      assert.equal(32, #public)
      count = count + 1
    end
    assert.equal(2, count)
    assert.equal(384, stat.stat(path).st_mode & 4095)
  end)

  it("rotates what a link leads to, and leaves the link", function()
    assert(keyring.create(path))
    local link = folder .. "/link.json"
    assert(require("posix.unistd").link(path, link, true))
    assert(assert(keyring.load(link)):rotate { master = true })
    assert.equal(3, #assert(keyring.load(path)):list())
    assert.equal(1, stat.S_ISLNK(stat.lstat(link).st_mode))
  end)

  it("loses no key when processes rotate at once", function()
    assert(keyring.create(path))
    local script = tmp.write(folder .. "/rotate.lua", ([[
      package.path, package.cpath = %q, %q
      assert(assert(require("ate.keyring").load(%q)):rotate { master = true })
    ]]):format(package.path, package.cpath, path))
    local command = ("lua5.4 %s & "):format(tmp.quote(script)):rep(8)
    assert.same({ 0, "" }, { tmp.run("{ " .. command .. "wait; }") })
    local list = assert(keyring.load(path)):list()
    assert.equal(10, #list)
  end)

  it("is refused when others can read it, and says what to do", function()
    assert(keyring.create(path))
    for _, mode in ipairs { "640", "604", "660", "610", "666" } do
      os.execute(("chmod %s '%s'"):format(mode, path))
      local ring, message, code = keyring.load(path)
      assert.is_nil(ring)
      assert.equal("bad_mode", code)
      assert.truthy(message:find("chmod 600 " .. path, 1, true))
    end
    os.execute(("chmod 400 '%s'"):format(path))
    assert.truthy(keyring.load(path))
  end)

  it("is refused when damaged, without showing what is in it", function()
    local ring = assert(keyring.create(path))
    local text = tmp.read(path)
    local secret = text:match('"secret": *"([^"]+)"')
    local good = json.decode(text)
    local function changed(change)
      local value = json.decode(text)
      change(value)
      return json.encode(value)
    end
    local bad = {
      "", "{}", "[]", "null", text .. "x", text:sub(1, #text // 2), '{"version":1,"keys":[]}',
      '{"version":1,"keys":{}}', ("x"):rep(2 << 20),
      changed(function(v) v.version = 2 end),
      changed(function(v) v.keys[1].kind = "other" end),
      changed(function(v) v.keys[1].id = v.keys[2].id end),
      changed(function(v) v.keys[1].secret, v.keys[2].secret = v.keys[2].secret, v.keys[1].secret end),
      changed(function(v) v.keys[1].secret = "AAAA" end),
      changed(function(v) v.keys[1].secret = 5 end),
      changed(function(v) v.keys[1].current = nil end),
      changed(function(v) v.keys[1].current = false end),
      changed(function(v) v.keys[1].created_at = "today" end),
      changed(function(v) v.keys[1] = 5 end),
      changed(function(v) v.keys[3] = good.keys[1] end),
    }
    for i, content in ipairs(bad) do
      tmp.write(path, content)
      local loaded, message, code = keyring.load(path)
      assert.is_nil(loaded, i)
      assert.equal("bad_keyring", code, message)
      assert.is_nil(message:find(secret, 1, true))
      assert.is_nil((ring:rotate { master = true }))
      assert.equal(content, tmp.read(path))
    end
    assert.is_nil(tostring(ring):find(secret, 1, true))
  end)

  it("names what is missing", function()
    local ring, message, code = keyring.load(path)
    assert.is_nil(ring)
    assert.equal("ENOENT", code)
    assert.equal("key ring: " .. path .. ": No such file or directory", message)
    assert.equal("ENOENT", select(3, keyring.create(folder .. "/none/keys.json")))
    assert.equal("bad_keyring", select(3, keyring.load(folder)))
    ring = assert(keyring.ensure(path))
    assert.same(ring:list(), assert(keyring.ensure(path)):list())
    assert.equal("unknown_key", select(3, ring:master("00")))
    assert.equal("unknown_key", select(3, ring:signer("00")))
    assert.error_matches(function() ring:rotate {} end, "needs")
    assert.error_matches(function() ring:rotate { master = true, typo = true } end, "unknown option 'typo'")
  end)
end)
