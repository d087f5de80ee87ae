-- What the dashboard's responses say, without a browser: the policy, the settings, the assets.
local crypto = require "atelier.crypto"
local dashboard = require "dashboard"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local tmp = require "spec.ate.support.tmp"

local function connects(config)
  return dashboard.policy(config)["Content-Security-Policy"]:match "connect%-src ([^;]*);"
end

describe("the dashboard", function()
  after_each(tmp.clean)

  it("may talk to its own origin, and to the project's where one is configured", function()
    assert.equal("'self'", connects {})
    assert.equal("'self' https://ref.supabase.co", connects { supabase_url = "https://ref.supabase.co/" })
    assert.equal("'self' http://127.0.0.1:54321", connects { supabase_url = "http://127.0.0.1:54321/x?y" })
  end)

  it("lets no address write into the policy", function()
    for _, url in ipairs { "javascript:alert(1)", "*", "https://", "ftp://a.b", "" } do
      assert.equal("'self'", connects { supabase_url = url })
    end
    local header = dashboard.policy { supabase_url = "https://a.b; script-src *\r\nX: y" }["Content-Security-Policy"]
    assert.equal("'self' https://a.b", header:match "connect%-src ([^;]*);")
    assert.is_nil(header:find("*", 1, true))
  end)

  it("allows nothing inline and nothing foreign", function()
    local header = dashboard.policy({})["Content-Security-Policy"]
    assert.is_nil(header:find("unsafe", 1, true))
    for _, part in ipairs { "default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'",
      "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'" } do
      assert.truthy(header:find(part, 1, true), part)
    end
  end)

  it("tells the pages public keys and the sign-in, and no secret", function()
    local ring = assert(keyring.create(tmp.folder() .. "/keyring.json"))
    local config = { supabase_url = "https://ref.supabase.co/", supabase_anon_key = "public", default_template = "t",
      supabase_service_role_key = "SECRET", jwt_secret = "SECRET" }
    local settings = dashboard.settings(config, ring)
    assert.same({ url = "https://ref.supabase.co", anon_key = "public" }, settings.supabase)
    assert.equal(1, #settings.signers)
    assert.equal(crypto.hex(crypto.sha256(crypto.base64_decode(settings.signers[1].public)):sub(1, 8)),
      settings.signers[1].id)
    assert.is_nil(json.encode(settings):find("SECRET", 1, true))
    assert.equal(json.null, dashboard.settings({ supabase_url = "https://a.b" }, ring).supabase)
    assert.equal("[]", json.encode(dashboard.settings({}, nil).signers))
  end)

  it("has each asset once, with a tag that its bytes decide", function()
    local folder = tmp.folder()
    tmp.write(folder .. "/a.js", "1")
    tmp.write(folder .. "/b.js", "2")
    tmp.write(folder .. "/B.JS", "3")
    tmp.write(folder .. "/.hidden.js", "4")
    tmp.write(folder .. "/c.txt", "5")
    local assets = dashboard.read_assets(folder)
    assert.equal("text/javascript; charset=utf-8", assets["a.js"].type)
    assert.matches('^"%x+"$', assets["a.js"].etag)
    assert.not_equal(assets["a.js"].etag, assets["b.js"].etag)
    assets["a.js"], assets["b.js"] = nil, nil
    assert.is_nil(next(assets))
  end)

  it("speaks both languages to the same extent", function()
    local function keys(name)
      local list, text = {}, tmp.read("lua/dashboard/assets/" .. name):gsub('"[^"\n]*"', '""')
      for key in text:gmatch '([%a][%w_]*): *["{]' do
        if key ~= "one" and key ~= "other" then list[#list + 1] = key end
      end
      table.sort(list)
      return table.concat(list, "\n")
    end
    assert.equal(keys "en.js", keys "ja.js")
    assert.truthy(#keys "en.js" > 1000)
  end)
end)
