local crypto = require "atelier.crypto"
local licence = require "ate.licence"

local MASTER = crypto.unhex(("00112233445566778899aabbccddeeff"):rep(2))
local DEVICE = "0F8FAD5B-D9CB-469F-A165-70867728950E"
local ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

-- The contract's sentence, bit by bit: character i is bits 5i to 5i+4 of the HMAC.
local function by_the_book(mac)
  local out = {}
  for i = 0, 24 do
    local value = 0
    for bit = 5 * i, 5 * i + 4 do
      value = value << 1 | mac:byte(bit // 8 + 1) >> (7 - bit % 8) & 1
    end
    out[#out + 1] = ALPHABET:sub(value + 1, value + 1)
    if i % 5 == 4 and i < 24 then out[#out + 1] = "-" end
  end
  return table.concat(out)
end

describe("licence keys", function()
  it("are the first 125 bits of the HMAC, five to a character", function()
    for i = 1, 200 do
      local device = ("%08x-0000-4000-8000-%012x"):format(i, i * 7919)
      local mac = crypto.hmac_sha256(MASTER, "atelier licence 1\0" .. device)
      assert.equal(by_the_book(mac), licence.key(MASTER, device))
    end
  end)

  it("depend on the master key and the device, not on the case of the id", function()
    local key = licence.key(MASTER, DEVICE)
    assert.truthy(key:find("^" .. ("%w%w%w%w%w-"):rep(5):sub(1, -2):gsub("%-", "%%-") .. "$"))
    assert.equal(key, licence.key(MASTER, DEVICE:lower()))
    assert.equal(key, licence.key(crypto.secret(MASTER), DEVICE))
    assert.not_equal(key, licence.key(MASTER, (DEVICE:gsub("E$", "F"))))
    assert.not_equal(key, licence.key(("x"):rep(32), DEVICE))
  end)

  it("are refused for what is not a UUID", function()
    for _, id in ipairs {
      "", "x", DEVICE .. "0", DEVICE:sub(2), (DEVICE:gsub("-", "")), DEVICE .. "\0", (DEVICE:gsub("0", "g")),
      "\n" .. DEVICE,
    } do
      local key, message, code = licence.key(MASTER, id)
      assert.is_nil(key)
      assert.equal("bad_device", code)
      assert.truthy(message:find("^licence: "))
    end
    assert.error_matches(function() licence.key(MASTER, 7) end, "must be a string")
  end)
end)

describe("licence input", function()
  local bare = "0123456789ABCDEFGHJKMNPQR"

  it("may have any case, dashes anywhere or nowhere, and white space around", function()
    assert.equal(bare, licence.normalise(bare))
    assert.equal(bare, licence.normalise(licence.format(bare)))
    assert.equal(bare, licence.normalise(bare:lower()))
    assert.equal(bare, licence.normalise("  " .. licence.format(bare):lower() .. "\n"))
    assert.equal(bare, licence.normalise("-" .. bare .. "--"))
  end)

  it("reads O as 0, I and L as 1, in either case", function()
    assert.equal("01111" .. bare:sub(6), licence.normalise("OILi1" .. bare:sub(6)))
    assert.equal("01110" .. bare:sub(6), licence.normalise("oiLlo" .. bare:sub(6)))
  end)

  it("is refused otherwise", function()
    for _, text in ipairs {
      "", " ", "-", bare:sub(2), bare .. "0", "U" .. bare:sub(2), "u" .. bare:sub(2), "!" .. bare:sub(2),
      "\0" .. bare:sub(2), "é" .. bare:sub(3), bare:sub(1, 12) .. " " .. bare:sub(13), ("0"):rep(100000),
    } do
      local key, message, code = licence.normalise(text)
      assert.is_nil(key)
      assert.equal("bad_licence", code)
      assert.truthy(message:find("^licence: "))
      assert.is_nil(message:find(bare:sub(6, 12), 1, true), "the message shows the key")
    end
    assert.error_matches(function() licence.normalise(nil) end, "must be a string")
  end)
end)
