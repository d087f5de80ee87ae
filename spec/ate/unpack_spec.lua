local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local host = require "atelier.host"
local open = require "ate.open"
local rawzip = require "spec.ate.support.rawzip"
local stat = require "posix.sys.stat"
local tmp = require "spec.ate.support.tmp"
local unistd = require "posix.unistd"
local zip = require "atelier.zip"

local SYMLINK, FIFO, DEVICE, FOLDER = 0xa1ff, 0x11a4, 0x21a4, 0x41ed

describe("the archive in a well-sealed file", function()
  local folder, path, out

  before_each(function()
    folder = tmp.begin()
    path, out = folder .. "/a.ate", folder .. "/out"
  end)

  after_each(tmp.finish)

  local function put(archive) return tmp.write(path, forge.file { archive = archive }) end

  local function try(changes)
    local options = { device_hash = forge.DEVICE, licence = forge.LICENCE, signer = forge.signer:public() }
    for key, value in pairs(changes or {}) do options[key] = value end
    return open.open(path, options)
  end

  -- Refused with and without a folder; whatever stood there before is all that is there after.
  local function refused(archive, changes)
    put(archive)
    local before = tmp.list(folder)
    for _, extract in ipairs { false, out } do
      local options = { extract = extract or nil }
      for key, value in pairs(changes or {}) do options[key] = value end
      local result, message, code = try(options)
      assert.is_nil(result)
      assert.equal("bad_archive", code, message)
      assert.truthy(message:find("open: " .. path .. ": ", 1, true), message)
      assert.equal(before, tmp.list(folder))
    end
  end

  local function sample()
    local w = zip.writer()
    assert(w:add("main.lua", "print(1)\n"))
    assert(w:add("images/deep/a.png", ("\137PNG"):rep(1000)))
    assert(w:add("empty", ""))
    return (assert(w:close()))
  end

  it("fills a new folder, private to its owner", function()
    put(sample())
    local result = assert(try { extract = out })
    assert.equal(3, #result.entries)
    assert.equal("./empty\n./images\n./images/deep\n./images/deep/a.png\n./main.lua\n", tmp.list(out))
    assert.equal("print(1)\n", tmp.read(out .. "/main.lua"))
    assert.equal(("\137PNG"):rep(1000), tmp.read(out .. "/images/deep/a.png"))
    assert.equal("", tmp.read(out .. "/empty"))
    assert.equal(448, stat.stat(out).st_mode & 511)
    assert.equal(384, stat.stat(out .. "/main.lua").st_mode & 511)
    assert.equal(448, stat.stat(out .. "/images/deep").st_mode & 511)
  end)

  it("fills an empty folder and leaves it the same folder", function()
    put(sample())
    assert(stat.mkdir(out))
    local before = stat.stat(out)
    assert(try { extract = out .. "//" })
    local after = stat.stat(out)
    assert.equal(before.st_ino, after.st_ino)
    assert.equal(before.st_mode, after.st_mode)
    assert.equal("./empty\n./images\n./images/deep\n./images/deep/a.png\n./main.lua\n", tmp.list(out))
  end)

  it("fills no folder that holds something, is a file, or cannot be", function()
    put(sample())
    assert(stat.mkdir(out))
    tmp.write(out .. "/mine", "x")
    tmp.write(folder .. "/file", "x")
    assert(unistd.link(folder .. "/nowhere", folder .. "/dangling", true))
    local before = tmp.list(folder)
    for place, expected in pairs {
      [out] = "bad_archive", [folder] = "bad_archive", [folder .. "/file"] = "bad_archive",
      [folder .. "/a/b"] = "ENOENT",
      [folder .. "/file/x"] = "ENOTDIR", [folder .. "/dangling"] = "bad_archive", [""] = "bad_archive",
    } do
      local result, message, code = try { extract = place }
      assert.is_nil(result)
      assert.equal(expected, code, place .. ": " .. message)
      assert.truthy(message:find(place, #path + 7, true), message)
      assert.equal(before, tmp.list(folder))
    end
    tmp.write(out .. "/.hidden", "")
    os.remove(out .. "/mine")
    assert.equal("bad_archive", select(3, try { extract = out }))
  end)

  it("has only names that stay within the folder", function()
    for _, name in ipairs {
      "../x", "a/../../x", "/x", "//x", "a//x", "./x", "a/./x", "..", ".", "", "a/..", "x\0y", "a\\b", "..\\x", "C:\\x",
      "\255", "a\nb",
    } do
      refused(rawzip.build { { name = "main.lua", data = "x" }, { name = name, data = "x" } })
    end
    assert.is_nil(stat.stat(folder .. "/x"))
  end)

  it("has no two names that meet", function()
    for _, pair in ipairs {
      { "a", "a" }, { "a", "A" }, { "a", "a/b" }, { "a/b", "a" }, { "A/b", "a/B" }, { "ä", "Ä" },
    } do
      refused(rawzip.build { { name = pair[1], data = "x" }, { name = pair[2], data = "y" } })
    end
  end)

  it("has only regular files", function()
    for _, mode in ipairs { SYMLINK, FIFO, DEVICE } do
      refused(rawzip.build { { name = "main.lua", data = "/etc/passwd", mode = mode } })
    end
    refused(rawzip.build { { name = "main.lua", data = "x" }, { name = "sub/", mode = FOLDER } })
  end)

  it("has no entry with a password of its own", function()
    local w = zip.writer()
    assert(w:add("main.lua", "return 1", { password = "p" }))
    refused((assert(w:close())))
  end)

  it("keeps to the limits, which options raise", function()
    local many = {}
    for i = 1, 10001 do many[i] = { name = "f" .. i } end
    refused(rawzip.build(many))
    assert.truthy(try { limits = { entries = 10001 } })
    many[10001] = nil
    put(rawzip.build(many))
    assert.equal(10000, #assert(try()).entries)
    refused(rawzip.build { { name = "a", data = "12345" } }, { limits = { bytes = 4 } })
    refused(rawzip.build { { name = "a", method = 8, size = (1 << 30) + 1, data = ("x"):rep(1 << 21), crc = 0 } })

    local w = zip.writer()
    assert(w:add_deflated("bomb", zip.deflate(("\0"):rep(8 << 20))))
    local bomb = assert(w:close())
    refused(bomb)
    put(bomb)
    assert.truthy(try { limits = { ratio = 2000 } })
  end)

  it("holds what it declares", function()
    local good = rawzip.build { { name = "main.lua", data = "print(1)\n" } }
    refused(rawzip.build { { name = "main.lua", data = "print(1)\n", crc = 5 } })
    refused(rawzip.build { { name = "main.lua", data = "print(1)\n", size = 8 } })
    refused(rawzip.build { { name = "main.lua", data = "not deflated", method = 8, size = 100 } })
    refused(good .. "x")
    refused("x" .. good)
    refused(good:sub(1, -2))
    refused(("x"):rep(1000))
    refused(rawzip.build { { name = "first", data = "fine" }, { name = "second", data = "print(1)\n", crc = 5 } })

    local whole = sample()
    local size = (">I4"):pack(0x200d0000):reverse() -- claims other sizes than the data have
    local at = whole:find("PK\1\2", 1, true)
    refused(whole:sub(1, at + 23) .. size .. whole:sub(at + 28))
  end)

  it("may be empty", function()
    put("PK\5\6" .. ("\0"):rep(18))
    assert.equal(0, #assert(try { extract = out }).entries)
    assert.equal("", tmp.list(out))
  end)

  -- A child with a small limit on file sizes; and, where we may mount one, a small disk.
  local function child(place, limit)
    return tmp.write(folder .. "/child.lua", ([[
      package.path, package.cpath = %q, %q
      local resource, signal = require "posix.sys.resource", require "posix.signal"
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      if %d > 0 then resource.setrlimit(resource.RLIMIT_FSIZE, { rlim_cur = %d, rlim_max = %d }) end
      local forge = require "spec.ate.support.forge"
      local result, message, code = require("ate.open").open(%q,
        { device_hash = forge.DEVICE, licence = forge.LICENCE, extract = %q })
      print(result, code)
    ]]):format(package.path, package.cpath, limit, limit, limit, path, place))
  end

  it("leaves nothing on a full disk", function()
    local w = zip.writer()
    for i = 1, 8 do assert(w:add(("d%d/file"):format(i), crypto.random(i * 60000), { method = "store" })) end
    put((assert(w:close())))
    local script = child(out, 400000)
    local before = tmp.list(folder)
    assert.same({ 0, "nil\tEFBIG\n" }, { tmp.run("lua5.4 " .. script) })
    assert.equal(before, tmp.list(folder))

    local disk = folder .. "/disk"
    assert(stat.mkdir(disk))
    if tmp.run("mount -t tmpfs -o size=1m tmpfs " .. disk) ~= 0 then return end
    finally(function() tmp.run("umount " .. disk) end)
    for _, place in ipairs { disk, disk .. "/new" } do
      assert.same({ 0, "nil\tENOSPC\n" }, { tmp.run("lua5.4 " .. child(place, 0)) })
      assert.equal("", tmp.list(disk))
    end
  end)

  -- The signal comes while the second entry is written, as from a terminal. Its number tells the shell how it ended.
  local function interrupted(name, before, place)
    local script = tmp.write(folder .. "/child.lua", ([[
      package.path, package.cpath = %q, %q
      local signal, unistd, unpack = require "posix.signal", require "posix.unistd", require "ate.unpack"
      signal.signal(signal.%s, %s) -- whatever this spec was started with: nohup ignores some
      local reader = assert(require("atelier.zip").open(%q))
      local slow = { entries = function() return reader:entries() end }
      function slow:extract(entry, file)
        if entry == "empty" then signal.kill(unistd.getpid(), signal.%s) end
        return reader:extract(entry, file)
      end
      print(unpack.extract(slow, %q))
    ]]):format(package.path, package.cpath, name, before, folder .. "/a.zip", name, place))
    local _, output = tmp.run(("exec 2>/dev/null; '%s' run %s; echo $?"):format(host.exe, script))
    os.remove(script)
    return output
  end

  it("leaves nothing when a signal ends it, and goes on where that is ignored or handled", function()
    tmp.write(folder .. "/a.zip", sample())
    assert(stat.mkdir(folder .. "/there"))
    local before = tmp.list(folder)
    for name, code in pairs { SIGINT = "130\n", SIGTERM = "143\n", SIGHUP = "129\n" } do
      for _, place in ipairs { out, folder .. "/there" } do
        assert.equal(code, interrupted(name, "signal.SIG_DFL", place))
        assert.equal(before, tmp.list(folder))
      end
    end
    assert.equal("true\n0\n", interrupted("SIGHUP", "signal.SIG_IGN", out))
    assert.equal("print(1)\n", tmp.read(out .. "/main.lua"))
    assert.equal("mine\ntrue\n0\n", interrupted("SIGTERM", "function() print 'mine' end", out .. "2"))
    assert.equal("print(1)\n", tmp.read(out .. "2/main.lua"))
  end)
end)
