-- What cannot be written is not done, whatever the command: exit code 1, and why.
local host = require "atelier.host"
local program = require "spec.support.program"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local script

local function run(words, to)
  return program.shell(("ATELIER_CONFIG=spec/support/patient.conf.lua '%s' %s %s"):format(host.exe, words, to))
end

setup(function()
  script = os.tmpname()
  local file <close> = assert(io.open(script, "w"))
  file:write [[
    print(1, nil, setmetatable({}, { __tostring = function() return "x" end }))
    print()
    print((pcall(print, setmetatable({}, { __tostring = function() return {} end }))))
  ]]
end)

teardown(function()
  os.remove(script)
end)

describe("a command whose output cannot be written", function()
  for _, words in ipairs { "version", "version --json", "config", "config --json", "jail /tmp/S", "jail /tmp/S /tmp/S --json",
    "run /tmp/S", "version --nonsense --json", "man", "completion bash", "--help", "keys new --help" } do
    it("says so: " .. words, function()
      for to, reason in pairs { [">/dev/full"] = "No space left", [">&-"] = "Bad file descriptor" } do
        local code, _, err = run(words:gsub("/tmp/S", script), to)
        assert.equal(words:find "nonsense" and 2 or 1, code, err)
        assert.matches("standard output: " .. reason, err, 1, true)
        assert.equal(1, select(2, err:gsub("standard output", "")), err)
      end
    end)
  end

  it("is silent where its reader has seen enough", function()
    local read, write = unistd.pipe()
    unistd.close(read)
    local errors = os.tmpname()
    local pid = assert(unistd.fork())
    if pid == 0 then
      unistd.dup2(write, 1)
      unistd.exec("/bin/sh", { "-c", ('exec "$0" version 2>%s'):format(errors), host.exe })
      unistd._exit(127)
    end
    unistd.close(write)
    assert.same({ "exited", 1 }, { select(2, wait.wait(pid)) })
    local file <close> = assert(io.open(errors))
    assert.equal("", file:read "a")
    os.remove(errors)
  end)
end)

describe("print", function()
  it("is Lua's own otherwise", function()
    local code, out = run("run " .. script, "")
    assert.equal(0, code)
    assert.equal("1\tnil\tx\n\nfalse\n", out)
  end)
end)
