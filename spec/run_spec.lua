-- spec/run.lua: what becomes of a file that fails.
local host = require "atelier.host"

describe("the run of the specs", function()
  it("ends what a file that failed left behind, and the scratch cluster", function()
    local folder = io.popen "mktemp -d"
    local dir = folder:read "l"
    folder:close()
    local file = assert(io.open(dir .. "/left_spec.lua", "w"))
    file:write [[
      it("leaves a server", function()
        print("cluster " .. require "spec.support.postgres".host())
        local server = require "spec.support.httpd_child".start { run = { handler = function() end } }
        print("server " .. server.pid)
        error "on purpose"
      end)
    ]]
    file:close()
    local run = io.popen(("%s run spec/run.lua %s 2>&1"):format(host.exe, dir))
    local text = run:read "a"
    run:close()
    os.execute("rm -r " .. dir)
    assert.matches("0 passed, 1 failed\n$", text)
    assert.matches("on purpose.*== what failed.*left_spec%.lua.*on purpose", text)
    assert.is_nil(io.open(("/proc/%s/exe"):format(text:match "server (%d+)")), text)
    assert.is_nil(io.open(text:match "cluster (%S+)" .. "/keeper"), text)
  end)
end)
