local crypto = require "atelier.crypto"
local pubkey = require "ate.pubkey"
local tmp = require "spec.ate.support.tmp"

describe("a public key", function()
  after_each(tmp.clean)

  it("is base64 of 32 bytes, PEM, or a file that holds one of them", function()
    local folder = tmp.folder()
    assert.equal(0, (tmp.run(("cd %s && openssl genpkey -algorithm ed25519 -out key.pem && "
      .. "openssl pkey -in key.pem -pubout -out pub.pem && openssl pkey -in key.pem -pubout -outform DER -out pub.der")
      :format(folder))))
    local raw = tmp.read(folder .. "/pub.der"):sub(-32)
    local text = crypto.base64_encode(raw)
    tmp.write(folder .. "/key.txt", text, "\n")
    for _, good in ipairs { raw, text, " " .. text .. "\n", tmp.read(folder .. "/pub.pem") } do
      assert.equal(raw, pubkey.parse(good))
      assert.equal(raw, pubkey.read(good))
    end
    assert.equal(raw, pubkey.read(folder .. "/pub.pem"))
    assert.equal(raw, pubkey.read(folder .. "/key.txt"))
  end)

  it("is nothing else", function()
    local folder = tmp.folder()
    assert.equal(0, (tmp.run(("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out ec.pem && "
      .. "openssl ec -in ec.pem -pubout -out pub.pem"):format(folder))))
    local random = crypto.base64_encode(crypto.random(32))
    for _, bad in ipairs {
      "", "x", ("x"):rep(31), ("x"):rep(33), crypto.base64_encode(("x"):rep(31)), random:sub(1, -2), random .. "=",
      "-----BEGIN PUBLIC KEY-----", folder .. "/none", folder, folder .. "/pub.pem", tmp.read(folder .. "/pub.pem"),
      tmp.read(folder .. "/ec.pem"), tmp.write(folder .. "/long", ("x"):rep(100000)), tmp.write(folder .. "/empty", ""),
    } do
      local raw, message, code = pubkey.read(bad)
      assert.is_nil(raw, bad)
      assert.equal("bad_key", code)
      assert.truthy(message:find("^public key: "), message)
    end
    assert.error_matches(function() pubkey.parse(nil) end, "must be a string")
  end)
end)
