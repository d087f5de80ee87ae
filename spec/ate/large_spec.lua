local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local live = require "spec.ate.support.live"
local open = require "ate.open"
local stat = require "posix.sys.stat"
local tmp = require "spec.ate.support.tmp"
local zip = require "atelier.zip"

local SIZE = 128 << 20
local ALLOWED = 64 << 10 -- KiB

-- Runs Lua in a process of its own and gives what it printed, the last line being its peak memory in KiB.
local function child(folder, ...)
  local script = tmp.write(folder .. "/child.lua", ("package.path, package.cpath = %q, %q\n"):format(package.path,
    package.cpath), 'local forge, open = require "spec.ate.support.forge", require "ate.open"\n', table.concat { ... }, [[

    for line in io.lines("/proc/self/status") do
      local peak = line:match("^VmHWM:%s*(%d+)")
      if peak then print(peak) end
    end
  ]])
  local code, output = tmp.run(("TMPDIR=%s/scratch lua5.4 %s"):format(folder, script))
  os.remove(script)
  assert.equal(0, code, output)
  local text, peak = output:match("^(.-)(%d+)\n$")
  assert.truthy(tonumber(peak) <= ALLOWED, "peak memory " .. peak .. " KiB")
  return text
end

local SEAL = [[
  assert(require("ate.container").seal_file {
    archive_path = FOLDER .. "/big.zip", path = FOLDER .. "/big.ate", licence = forge.LICENCE,
    device_hash = forge.DEVICE, metadata = require("atelier.json").decode(forge.METADATA), signer = forge.signer,
  })
]]

local OPEN = [[
  local result, message, code = open.open(FOLDER .. "/big.ate", {
    device_hash = forge.DEVICE, licence = forge.LICENCE, signer = forge.signer:public(), extract = FOLDER .. "/out",
  })
  print(result and result.checksum or code)
]]

local VERIFY = [[
  local result, message, code = open.verify(FOLDER .. "/big.ate", { signer = forge.signer:public() })
  print(result and result.checksum or code)
]]

describe("a large file", function()
  before_each(live.mark)

  after_each(tmp.finish)

  it("is sealed, verified, opened and refused in constant memory, and leaves nothing behind", function()
    local folder = tmp.folder()
    assert(stat.mkdir(folder .. "/scratch"))
    local asset = assert(io.open(folder .. "/asset", "wb"))
    asset:seek("set", SIZE - 3)
    assert(asset:write("end"))
    asset:close()
    local w = zip.writer(folder .. "/big.zip")
    assert(w:add("main.lua", "print(1)\n"))
    assert(w:add_file("asset.bin", folder .. "/asset", { method = "store" }))
    assert(w:close())

    local function run(body) return child(folder, ("local FOLDER = %q\n"):format(folder) .. body) end
    run(SEAL)
    os.remove(folder .. "/big.zip")
    local checksum = crypto.hex((assert(crypto.sha256_file(folder .. "/big.ate"))))
    assert.equal(checksum .. "\n", run(VERIFY))
    assert.equal(checksum .. "\n", run(OPEN))
    assert.equal("./asset.bin\n./main.lua\n", tmp.list(folder .. "/out"))
    assert.equal(0, (tmp.run(("cmp %s/asset %s/out/asset.bin"):format(folder, folder))))
    assert.equal(0, (tmp.run(("rm -r %s/out"):format(folder))))

    local before = tmp.list(folder)
    local size = stat.stat(folder .. "/big.ate").st_size
    local function refused(at, on_open, on_verify)
      local file <close> = assert(io.open(folder .. "/big.ate", "r+b"))
      local function flip()
        file:seek("set", at)
        local byte = file:read(1):byte()
        file:seek("set", at)
        assert(file:write(string.char(byte ~ 1)))
        file:flush()
      end
      flip()
      assert.equal(on_open .. "\n", run(OPEN))
      assert.equal(on_verify .. "\n", run(VERIFY))
      flip()
    end
    refused(SIZE // 2, "tampered", "bad_signature")
    refused(size - 65, "tampered", "bad_signature")
    refused(size - 1, "bad_signature", "bad_signature")
    assert.equal(before, tmp.list(folder))
  end)

  it("has its final name only when it is whole, whenever the sealing process is killed", function()
    local folder = tmp.folder()
    assert(stat.mkdir(folder .. "/scratch"))
    tmp.write(folder .. "/big.zip", crypto.random(32 << 20))
    local script = tmp.write(folder .. "/seal.lua", ("package.path, package.cpath = %q, %q\n"):format(package.path,
      package.cpath), ("local FOLDER, forge = %q, require 'spec.ate.support.forge'\n"):format(folder), SEAL)
    local killed, size = 0, nil
    for i = 1, 24 do
      os.remove(folder .. "/big.ate")
      local code = tmp.run(("timeout -s KILL %.3f lua5.4 %s"):format(i * 0.006, script))
      if code ~= 0 then killed = killed + 1 end
      local found = stat.stat(folder .. "/big.ate")
      if found then
        size = size or found.st_size
        assert.equal(size, found.st_size)
        assert.truthy(open.verify(folder .. "/big.ate", { signer = forge.signer:public() }))
      else
        assert.not_equal(0, code)
      end
    end
    assert.truthy(killed > 0, "no run was killed")
  end)

  it("needs scratch space, and says where there is none", function()
    local folder = tmp.folder()
    assert(stat.mkdir(folder .. "/scratch"))
    tmp.write(folder .. "/big.ate", forge.file { archive = crypto.random(9 << 20) })
    for name, reason in pairs { none = "No such file or directory\tENOENT", scratch = "File too large\tEFBIG" } do
      local script = tmp.write(folder .. "/child.lua", ([[
        package.path, package.cpath = %q, %q
        local resource, signal = require "posix.sys.resource", require "posix.signal"
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, { rlim_cur = 1 << 20, rlim_max = 1 << 20 })
        local forge = require "spec.ate.support.forge"
        local _, message, code = require("ate.open").open(%q, { device_hash = forge.DEVICE, licence = forge.LICENCE })
        print(message, code)
      ]]):format(package.path, package.cpath, folder .. "/big.ate"))
      local code, output = tmp.run(("TMPDIR=%s/%s lua5.4 %s"):format(folder, name, script))
      assert.equal(0, code, output)
      assert.matches(("scratch space in %s/%s (TMPDIR): %s"):format(folder, name, reason), output, 1, true)
    end
  end)

  it("is refused for what is wrong within it", function()
    local folder = tmp.folder()
    assert(stat.mkdir(folder .. "/scratch"))
    local bytes = forge.file { archive = crypto.random(9 << 20) }
    tmp.write(folder .. "/big.ate", bytes)
    local before = tmp.list(folder)
    assert.equal("bad_archive\n", child(folder, ("local FOLDER = %q\n"):format(folder) .. OPEN))
    assert.equal(before, tmp.list(folder))
  end)

  it("of the winzip-aes256 form is sealed and opened in constant memory too", function()
    local folder = tmp.folder()
    assert(stat.mkdir(folder .. "/scratch"))
    local asset = assert(io.open(folder .. "/asset", "wb"))
    asset:seek("set", (12 << 20) - 3)
    assert(asset:write("end"))
    asset:close()
    local w = zip.writer(folder .. "/big.zip")
    for i = 1, 8 do assert(w:add_file("asset" .. i, folder .. "/asset", { method = "store" })) end
    assert(w:close())
    child(folder, ("local FOLDER = %q\n"):format(folder), [[
      assert(require("ate.winzip").seal_file {
        archive_path = FOLDER .. "/big.zip", path = FOLDER .. "/big.ate", licence = forge.LICENCE,
      })
      assert(open.open(FOLDER .. "/big.ate", { device_hash = "x", licence = forge.LICENCE, extract = FOLDER .. "/out" }))
    ]])
    assert.equal(0, (tmp.run(("cmp %s/asset %s/out/asset8"):format(folder, folder))))
    assert.equal("", tmp.list(folder .. "/scratch"))
  end)
end)
