local crypto = require "atelier.crypto"
local folders = require "spec.support.template_folder"
local json = require "atelier.json"
local stat = require "posix.sys.stat"
local template = require "template"
local unistd = require "posix.unistd"

local function refused(folder, wanted, code)
  local loaded, message, got = template.load(folder)
  assert.is_nil(loaded)
  assert.truthy(message:find(wanted, 1, true), wanted .. "\nis not in:\n" .. message)
  assert.equal(code or "template", got)
  return message
end

describe("a template", function()
  after_each(function()
    folders.clean()
    collectgarbage()
    collectgarbage()
    assert.equal(0, crypto.live_handles())
  end)

  it("has the name that its folder says", function()
    local folder = folders.make { ["main.lua"] = "" }
    assert(os.rename(folder, folder .. ".at"))
    finally(function() os.execute("rm -rf '" .. folder .. ".at'") end)
    local none, message, code = template.load(folder .. ".at/")
    assert.is_nil(none)
    assert.matches('name: "sample", but the folder says "template-spec-', message, 1, true)
    assert.equal("template", code)
  end)

  it("is its manifest and its files", function()
    local folder = folders.make { ["main.lua"] = "return 1\n", ["images/a.png"] = "\0\xff", ["config.json"] = "{}", ["x.txt"] = "" }
    local loaded = assert(template.load(folder .. "/"))
    assert.equal("sample", loaded.name)
    assert.same({}, loaded.warnings)
    local names, kinds = {}, {}
    for i, file in ipairs(loaded.files) do names[i], kinds[i] = file.file, file.kind end
    assert.same({ "config.json", "images/a.png", "main.lua", "x.txt" }, names)
    assert.same({ "json", "binary", "lua", "text" }, kinds)
    assert.equal(2, loaded.files[2].size)
    assert.is_nil(loaded.files[2].text)
    assert.equal("return 1\n", loaded.files[3].text)
    assert.truthy(loaded:compile_all())
  end)

  it("has a hash over every name and byte", function()
    local base = { ["main.lua"] = "return 1\n", ["b.txt"] = "b", ["a.png"] = "a" }
    local function hash(changes)
      local files = {}
      for name, text in pairs(base) do files[name] = text end
      for name, text in pairs(changes) do files[name] = text or nil end
      return template.load(folders.make(files)).hash
    end
    local first = hash {}
    assert.matches("^%x+$", first)
    assert.equal(64, #first)
    assert.equal(first, hash {})
    assert.not_equal(first, hash { ["a.png"] = "b" })
    assert.not_equal(first, hash { ["b.txt"] = "c" })
    assert.not_equal(first, hash { ["b.txt"] = false, ["c.txt"] = "b" })
    assert.not_equal(first, template.load(folders.make(base, { description = "x" })).hash)
  end)

  it("must be there, whole", function()
    local folder = folders.make { ["main.lua"] = "" }
    refused(folder .. "/nowhere", "No such file", "ENOENT")
    refused(folder .. "/main.lua", "not a folder", "ENOTDIR")
    os.remove(folder .. "/main.lua")
    refused(folder, "main.lua: missing", "ENOENT")
    os.remove(folder .. "/template.json")
    refused(folder, "template.json: missing", "ENOENT")
  end)

  it("tells all that is wrong at once", function()
    local folder = folders.make { ["a.lua"] = "", ["b.txt"] = "a\nb\xff", ["c.lua"] = "", ["d.lua"] = "" }
    os.remove(folder .. "/a.lua")
    os.remove(folder .. "/c.lua")
    stat.mkdir(folder .. "/c.lua")
    os.remove(folder .. "/d.lua")
    assert(stat.mkfifo(folder .. "/d.lua"))
    local message = refused(folder, "a.lua: missing", "ENOENT")
    assert.truthy(message:find("b.txt:2:2: not UTF-8", 1, true), message)
    assert.truthy(message:find("c.lua: a folder, not a regular file", 1, true))
    assert.truthy(message:find("d.lua: a pipe, not a regular file", 1, true))
  end)

  it("holds no links, to the inside or to the outside", function()
    for _, target in ipairs { "/etc/passwd", "other.lua", "../other.lua", "nowhere" } do
      local folder = folders.make { ["main.lua"] = "", ["other.lua"] = "" }
      os.remove(folder .. "/main.lua")
      assert(unistd.link(target, folder .. "/main.lua", true))
      refused(folder, "main.lua: a symbolic link")
    end
    local folder = folders.make { ["images/a.png"] = "" }
    os.execute(("rm -r '%s/images'"):format(folder))
    assert(unistd.link("/etc", folder .. "/images", true))
    refused(folder, "images/a.png: a symbolic link")
    os.remove(folder .. "/template.json")
    assert(unistd.link("/etc/passwd", folder .. "/template.json", true))
    refused(folder, "template.json: a symbolic link")
  end)

  it("holds text files of a size, and binary ones of any", function()
    local folder = folders.make { ["a.txt"] = "", ["b.bin"] = "" }
    os.execute(("truncate -s 16777216 '%s/a.txt'; truncate -s 40000000 '%s/b.bin'"):format(folder, folder))
    assert.equal(16777216, template.load(folder).files[1].size)
    os.execute(("truncate -s 16777217 '%s/a.txt'"):format(folder))
    refused(folder, "a.txt: larger than 16777216 bytes")
    folder = folders.make { ["a.lua"] = "" }
    os.execute(("truncate -s 2000000 '%s/template.json'"):format(folder))
    refused(folder, "template.json: larger than 1048576 bytes")
  end)

  it("warns of what the manifest does not name", function()
    local folder = folders.make { ["main.lua"] = "" }
    folders.write(folder, "old.lua", "")
    folders.write(folder, "images/b.png", "")
    folders.write(folder, "spec/main_spec.lua", "")
    folders.write(folder, ".hidden", "")
    local loaded = template.load(folder)
    assert.same({ "images/b.png", "old.lua" }, loaded.strays)
    assert.equal("images/b.png: a stray file: the manifest does not list it", loaded.warnings[1])
  end)

  it("reports the faults of all its files", function()
    local folder = folders.make { ["a.lua"] = "x = {{x}}{{y}}", ["b.json"] = "[{{x}}", ["c.lua"] = "if", ["d.lua"] = "-- {{ x }}" }
    local loaded = assert(template.load(folder))
    local ok, message, code = loaded:compile_all()
    assert.is_nil(ok)
    assert.equal("template", code)
    for _, name in ipairs { "a.lua:1:10:", "b.json:1:7:", "c.lua:1:" } do assert.truthy(message:find(name, 1, true), message) end
  end)

  it("cannot be read where its owner forbids it", function()
    if unistd.geteuid() == 0 then
      -- Root reads everything: a child without privileges says what such a user sees.
      local folder = folders.make { ["main.lua"] = "" }
      os.execute(("chmod 755 '%s'; chmod 000 '%s/main.lua'"):format(folder, folder))
      local script = ([[package.path = %q package.cpath = %q
        local _, message, code = require("template").load(%q) io.write(tostring(code), " ", tostring(message))]]):format(
        package.path, package.cpath, folder)
      folders.write(folder, "spec/try.lua", script)
      os.execute(("chmod -R a+rX '%s/spec'"):format(folder))
      local pipe = io.popen(("setpriv --reuid=65534 --regid=65534 --clear-groups lua5.4 '%s/spec/try.lua' 2>&1"):format(folder))
      local said = pipe:read("a")
      pipe:close()
      assert.matches("^EACCES .*main.lua: Permission denied", said)
    else
      local folder = folders.make { ["main.lua"] = "" }
      os.execute(("chmod 000 '%s/main.lua'"):format(folder))
      refused(folder, "main.lua: Permission denied", "EACCES")
    end
  end)

  it("reads manifests as they are published", function()
    local loaded = template.load(folders.make { ["main.lua"] = "" })
    assert.equal('[{"file":"main.lua","required":false,"type":"lua"}]', json.encode(loaded.file_structure))
  end)
end)
