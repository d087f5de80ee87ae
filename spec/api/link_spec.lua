local crypto = require "atelier.crypto"
local keyring = require "ate.keyring"
local link = require "api.link"
local metadata = require "ate.metadata"

local USER = "0b5c9c0e-6a4f-4d52-9a3f-7a1e3c5d9b11"
local FILE = "7f2f4a6e-2b1c-4c3d-8e4f-5a6b7c8d9e0f"
local OTHER = "7f2f4a6e-2b1c-4c3d-8e4f-5a6b7c8d9e10"

local function parameter(path)
  return path:match "^/api/ate/download/[%x-]+%?link=([%w_-]+)$"
end

-- A ring by its list of {id, age in seconds, current}, as ate.keyring has it.
local function ring_of(entries)
  local ring, list, secrets = {}, {}, {}
  for i, entry in ipairs(entries) do
    list[i] = { kind = "master", id = entry[1], created_at = metadata.time(os.time() - entry[2]), current = entry[3] }
    secrets[entry[1]] = crypto.secret(entry[1]:rep(2))
  end
  function ring.list() return list end
  function ring.master(_, id) return secrets[id] end
  return ring
end

describe("api.link", function()
  local keys, path, now

  before_each(function()
    local name = os.tmpname()
    os.remove(name)
    local ring = assert(keyring.create(name))
    os.remove(name)
    keys = assert(link.keys(ring))
    now = os.time()
    path = link.make(keys, USER, FILE, now + 200)
  end)

  after_each(function()
    keys = nil
    collectgarbage()
    collectgarbage()
    assert.equal(0, crypto.live_handles())
  end)

  it("tells who a link is for", function()
    local user, expiry = assert(link.check(keys, parameter(path), FILE))
    assert.equal(USER, user)
    assert.equal(now + 200, expiry)
    assert.equal(80, #parameter(path))
    assert.truthy(path:find("/api/ate/download/" .. FILE .. "?", 1, true))
  end)

  it("does not care how a UUID is written", function()
    assert.equal(USER, (link.check(keys, parameter(path), FILE:upper())))
    assert.equal(USER, (link.check(keys, parameter(link.make(keys, USER:upper(), FILE:upper(), now + 9)), FILE)))
  end)

  it("is good for five minutes at most", function()
    local _, expiry = assert(link.check(keys, parameter(link.make(keys, USER, FILE, now + 86400)), FILE))
    assert.is_true(expiry <= os.time() + 300)
  end)

  it("ends at its time", function()
    assert.equal(USER, (link.check(keys, parameter(path), FILE, now + 199)))
    local user, _, code = link.check(keys, parameter(path), FILE, now + 200)
    assert.is_nil(user)
    assert.equal("link_expired", code)
  end)

  it("is refused with any byte changed, expired or not", function()
    local bytes = crypto.base64url_decode(parameter(path))
    for i = 1, #bytes do
      local changed = bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 1) .. bytes:sub(i + 1)
      for _, moment in ipairs { now, now + 100000 } do
        local user, message, code = link.check(keys, crypto.base64url_encode(changed), FILE, moment)
        assert.is_nil(user)
        assert.equal("link_invalid", code)
        assert.is_string(message)
      end
    end
  end)

  it("is refused for another file, and in any other form", function()
    local text = parameter(path)
    assert.equal("link_invalid", select(3, link.check(keys, text, OTHER)))
    for _, odd in ipairs { "", "x", text:sub(1, -2), text .. "A", text .. "=", text .. "\n", " " .. text, ("A"):rep(80),
      ("\0"):rep(80), text:gsub("^.", "+"), ("A"):rep(100000) } do
      assert.equal("link_invalid", select(3, link.check(keys, odd, FILE)))
    end
    assert.equal("link_invalid", select(3, link.check(keys, text, "no-uuid")))
  end)

  it("is the same on every host with the ring, and nowhere else", function()
    local a = ring_of { { "aaaaaaaaaaaaaaaa", 1000, true } }
    local text = parameter(link.make(link.keys(a), USER, FILE, now + 100))
    assert.equal(USER, (link.check(link.keys(ring_of { { "aaaaaaaaaaaaaaaa", 1000, true } }), text, FILE)))
    assert.equal("link_invalid", select(3, link.check(link.keys(ring_of { { "bbbbbbbbbbbbbbbb", 1, true } }), text, FILE)))
    assert.equal("link_invalid", select(3, link.check(keys, text, FILE)))
  end)

  it("outlives a rotation, but not by long", function()
    local text = parameter(link.make(link.keys(ring_of { { "aaaaaaaaaaaaaaaa", 5000, true } }), USER, FILE, now + 100))
    local lately = ring_of { { "aaaaaaaaaaaaaaaa", 5000, false }, { "bbbbbbbbbbbbbbbb", 60, true } }
    assert.equal(USER, (link.check(link.keys(lately), text, FILE)))
    local long_ago = ring_of { { "aaaaaaaaaaaaaaaa", 5000, false }, { "bbbbbbbbbbbbbbbb", 3000, true } }
    assert.equal("link_invalid", select(3, link.check(link.keys(long_ago), text, FILE)))
    assert.equal(USER, (link.check(link.keys(long_ago), parameter(link.make(link.keys(long_ago), USER, FILE, now + 9)),
      FILE)))
  end)

  it("shows no secret", function()
    assert.equal("keys of download links", tostring(keys))
  end)

  it("raises for ids that are none", function()
    assert.has_error(function() link.make(keys, "you", FILE, now) end)
    assert.has_error(function() link.make(keys, USER, "it", now) end)
  end)
end)
