local clock = require "clock"
local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local json = require "atelier.json"
local open = require "ate.open"
local program = require "spec.support.program"
local seal = require "workflow.seal"
local stat = require "posix.sys.stat"

local ARCHIVE <const> = 3 << 20

-- What is sealed aside, while its maker looks on. The real ones go all the way in spec/workflow/large_spec.lua.
describe("workflow.seal, aside", function()
  local folder, failures

  before_each(function()
    folder, failures = program.folder(), {}
    local file = assert(io.open(folder .. "/asset", "wb"))
    file:write(crypto.random(ARCHIVE))
    file:close()
  end)

  after_each(function()
    program.remove(folder)
  end)

  -- Begins; the template is found unchanged so many times.
  local function begin(times, path)
    local looks = 0
    local prepared = {
      layout = function()
        return { { path = path or folder .. "/asset", size = ARCHIVE } }, ARCHIVE
      end,
      unchanged = function()
        looks = looks + 1
        if looks > times then
          return nil, "asset: changed on the disk", "template_version"
        end
        return true
      end,
    }
    local vars = { artifact_id = "a-1", template = "large", version = "1.0.0", plan = "pro",
      plan_tools = json.array { "timeline" }, issued_at = "2026-01-01T00:00:00Z", license_key = forge.LICENCE,
      device_hash = forge.DEVICE }
    return seal.growing({ generation = 1, license_expires_at = json.null }, prepared, vars, forge.signer, folder,
      function(code)
        failures[#failures + 1] = code
      end)
  end

  -- How it ended.
  local function await(sealed)
    local deadline = clock.now() + 60
    while clock.now() < deadline do
      local state, what, code = sealed.growing.state()
      if state ~= nil then
        return state, what, code
      end
    end
  end

  it("tells the size at once and the hashes at the end, and the file opens", function()
    local sealed = assert(begin(1000))
    local state, hash = await(sealed)
    assert.is_true(state, hash)
    assert.equal(sealed.size, stat.stat(sealed.path).st_size)
    assert.equal(crypto.hex(crypto.sha256_file(sealed.path)), hash)
    assert.equal(hash, sealed.checksum)
    assert.matches("^%x+$", sealed.encryption_key_hash)
    local found = assert(open.verify(sealed.path, { signer = forge.signer:public() }))
    assert.equal(hash, found.checksum)
    sealed.growing.stop()
    assert.same({}, failures)
  end)

  it("never ends a file whose template changed meanwhile", function()
    local sealed = assert(begin(1))
    local state, message, code = await(sealed)
    assert.same({ false, "asset: changed on the disk", "template_version" }, { state, message, code })
    assert.is_nil(stat.stat(sealed.path))
    assert.equal("template_version", failures[1])
  end)

  it("does not take back a file whose end is written: a store may have it", function()
    local sealed = assert(begin(2))
    assert.is_true(await(sealed))
    assert.equal(sealed.size, stat.stat(sealed.path).st_size)
    assert.same({}, failures)
  end)

  it("says what is wrong with the asset", function()
    local sealed = assert(begin(1000, folder .. "/none"))
    local state, message, code = await(sealed)
    assert.is_false(state)
    assert.equal("ENOENT", code, message)
    assert.is_nil(stat.stat(sealed.path))
  end)

  it("does not begin where the template has changed before", function()
    local none, message, code = begin(0)
    assert.same({ nil, "asset: changed on the disk", "template_version" }, { none, message, code })
  end)

  it("can be stopped", function()
    local sealed = assert(begin(1000))
    sealed.growing.stop()
    assert.is_not_nil(sealed.growing.state())
    sealed.growing.stop()
  end)
end)
