local dirent = require "posix.dirent"
local program = require "spec.support.program"
local walk = require "storage.walk"

describe("storage.walk", function()
  local root

  before_each(function()
    root = program.folder()
  end)

  after_each(function()
    program.remove(root)
  end)

  local function touch(keys)
    local list = assert(io.open(root .. "/.keys", "w"))
    list:write(table.concat(keys, "\n"), "\n")
    list:close()
    assert(os.execute(("cd %s && sed -n 's:/[^/]*$::p' .keys | sort -u | xargs mkdir -p && xargs touch <.keys")
      :format(root)))
  end

  -- All keys of a walk, and how often the folder `large` was read; `between(n)` runs before the n-th page.
  local function all(walker, prefix, between)
    local keys, after, pages, reads = {}, nil, 0, 0
    local files = dirent.files
    dirent.files = function(path) -- luacheck: ignore
      reads = reads + (path == root .. "/large/" and 1 or 0)
      return files(path)
    end
    repeat
      pages = pages + 1
      if between then
        between(pages)
      end
      local found = assert(walker:page(prefix or "", after, os.time()))
      for _, entry in ipairs(found) do
        keys[#keys + 1] = entry.key
      end
      after = found[1] and found[#found].key
    until not after
    dirent.files = files -- luacheck: ignore
    return keys, reads, pages
  end

  local function names(first, last, form)
    local keys = {}
    for i = first, last do
      keys[#keys + 1] = (form or "large/d%05d/f"):format(i)
    end
    return keys
  end

  it("reads a large folder once for all pages of a walk", function()
    touch(names(1, 2500))
    local keys, reads, pages = all(walk.new(root))
    assert.same(names(1, 2500), keys)
    assert.same({ 2, 4 }, { reads, pages }) -- the last page finds nothing, and begins anew
  end)

  it("keeps no more of its names than it may, and meets all", function()
    touch(names(1, 2500))
    local walker = walk.new(root)
    walker.window = 700
    local keys, reads = all(walker)
    assert.same(names(1, 2500), keys)
    assert.is_true(reads <= 10, reads)
  end)

  it("has the order of keys, whatever is a folder, in windows of any size", function()
    local keys = { "large/a-/2", "large/a-b", "large/a.b", "large/a/1", "large/a/2/x", "large/a0", "large/b-/1",
      "large/b-c", "large/b-d/z", "large/b.1/x", "large/b.2", "large/c/b", "large-/1", "larg", "large/z/-/-" }
    for i = 1, 30 do
      keys[#keys + 1] = ("large/b/%d/f"):format(i)
      keys[#keys + 1] = ("large/b-%d"):format(i)
    end
    touch(keys)
    table.sort(keys)
    for _, window in ipairs { 1, 2, 3, 5, 8, 1000 } do
      local walker = walk.new(root)
      walker.window = window
      assert.same(keys, (all(walker)), "window " .. window)
      for i = 1, #keys, 7 do
        local rest = {}
        for n, entry in ipairs((walker:page("", keys[i], 0))) do
          rest[n] = entry.key
        end
        assert.same({ table.unpack(keys, i + 1) }, rest)
      end
    end
  end)

  it("meets once what stays, while others come and go", function()
    for _, window in ipairs { 300, 50000 } do
      touch(names(1, 3500))
      local walker = walk.new(root)
      walker.window = window
      local keys = all(walker, "large/", function(page)
        if page > 3 then
          return
        end
        os.remove(("%s/large/d%05d/f"):format(root, page * 1000 + 100))
        os.execute(("rm -rf %s/large/d%05d"):format(root, page * 1000 + 200))
        touch { ("large/d%05d-new/f"):format(page * 1000 + 300), ("large/d%05d-new/f"):format(page * 100) }
      end)
      local seen = {}
      for i, key in ipairs(keys) do
        assert.is_nil(seen[key], key)
        assert.is_true(i == 1 or key > keys[i - 1])
        seen[key] = true
      end
      for i = 1, 3500 do
        local gone = i > 1000 and (i % 1000 == 100 or i % 1000 == 200)
        assert.equal(not gone or nil, seen[("large/d%05d/f"):format(i)], i)
      end
    end
  end)

  it("begins anew from any other key, and for any other prefix", function()
    touch(names(1, 2500))
    local walker = walk.new(root)
    local first = assert(walker:page("", nil, 0))
    touch { "large/d00001/g", "large/d01500-new/f" }
    assert.equal("large/d00001/g", walker:page("", first[1].key, 0)[1].key)
    walker:page("", nil, 0)
    assert.equal(501, #walker:page("large/d01", "large/d01499/f", 0))
    walker:page("", nil, 0)
    assert.same({}, (walker:page("", "zzz", 0)))
    assert.is_nil(walker.kept)
  end)
end)
