-- Each portable native module builds as a rock and loads in a stock Lua, away from the program.
local program = require "spec.support.program"

local LOADS = {
  json = "assert(m.encode(m.array {}) == '[]')",
  crypto = "assert(m.hex(m.sha256 'abc'):sub(1, 8) == 'ba7816bf')",
  zip = "local w = m.writer() assert(w:add('a', 'b')) assert(w:close():sub(1, 2) == 'PK')",
  pg = "assert(select(3, m.connect('host=/nonexistent')) == 'connection')",
  http = "assert(select(3, m.request { url = 'http://127.0.0.1:1/', timeout = 5 }) == 'connect')",
}

describe("the rocks", function()
  local copy

  setup(function()
    copy = program.folder()
    assert(os.execute(("cp -R host rocks %s/"):format(copy))) -- luarocks leaves objects beside the sources
  end)

  teardown(function()
    program.remove(copy)
  end)

  for name, test in pairs(LOADS) do
    it("build and load atelier." .. name .. " in stock Lua 5.4", function()
      local code, out, err = program.shell(
        ("cd %s && luarocks --lua-version=5.4 --tree=%s/tree make --deps-mode=none rocks/atelier-%s-scm-1.rockspec")
          :format(copy, copy, name))
      assert.equal(0, code, out .. err)
      local script = ("local m = require 'atelier.%s' %s print('fine')"):format(name, test)
      code, out, err = program.shell(("cd / && LUA_CPATH='%s/tree/lib/lua/5.4/?.so' lua5.4 -e \"%s\""):format(copy, script))
      assert.equal("fine\n", out, err)
      assert.equal(0, code)
    end)
  end

  it("leave out what only the program has", function()
    local _, listing = program.shell "ls rocks/*.rockspec"
    assert.equal(5, select(2, listing:gsub("rockspec", "")))
  end)
end)
