-- Archives that are laid out around large files. Sizes above 4 GiB are holes in a file: nothing is read of them.
local asset = require "template.asset"
local layout = require "template.layout"
local program = require "spec.support.program"
local zip = require "atelier.zip"

describe("a layout", function()
  local folder

  before_each(function()
    folder = program.folder()
  end)

  after_each(function()
    program.remove(folder)
    collectgarbage()
    collectgarbage()
    assert.equal(0, zip.live_handles())
  end)

  -- The entries that a reader finds, as text; the bytes of large files are left out.
  local function read_back(parts, size)
    local path, at = folder .. "/laid_out.zip", 0
    local file = assert(io.open(path, "wb"))
    for _, part in ipairs(parts) do
      if type(part) == "string" then
        file:seek("set", at)
        file:write(part)
        at = at + #part
      else
        at = at + part.size
      end
    end
    file:close()
    assert.equal(size, at)
    local reader <close> = assert(zip.open(path, { bytes = 1 << 40 }))
    local found = {}
    for i, entry in ipairs(reader:entries()) do
      found[i] = ("%s %s %d"):format(entry.name, entry.method, entry.size)
    end
    assert.equal("small", reader:read("a.txt"))
    return table.concat(found, ", ")
  end

  local function archive()
    local writer = zip.writer()
    assert(writer:add("a.txt", "small"))
    return assert(writer:close())
  end

  for _, case in ipairs {
    { "one that is small", { 1000 } },
    { "one of nothing", { 0 } },
    { "one just below 4 GiB, and one behind it", { 0xffffffff - 100, 5000 } },
    { "one of just 4 GiB less one", { 0xffffffff } },
    { "one of 5 GiB and one behind it", { 5 << 30, 7 } },
    { "one of 5 GiB behind another", { 3 << 30, 5 << 30, 6 << 30 } },
  } do
    it("is an archive with " .. case[1], function()
      local files, want = {}, { "a.txt deflate 5" }
      for i, size in ipairs(case[2]) do
        files[i] = { name = ("ü%d.bin"):format(i), size = size, crc32 = 0 }
        want[i + 1] = ("ü%d.bin store %d"):format(i, size)
      end
      assert.equal(table.concat(want, ", "), read_back(layout.parts(archive(), files)))
    end)
  end

  it("of no large file is the archive itself", function()
    local whole = archive()
    local parts, size = layout.parts(whole, {})
    assert.equal(whole, table.concat(parts))
    assert.equal(#whole, size)
  end)

  it("has the checksums that readers verify", function()
    local path = folder .. "/big"
    local file = assert(io.open(path, "wb"))
    file:write "123456789"
    file:close()
    local crc32, size = zip.crc32_file(path)
    assert.equal(0xCBF43926, crc32) -- the check value of CRC-32/ISO-HDLC
    assert.equal(9, size)
    local parts = layout.parts(archive(), { { name = "big", size = size, crc32 = crc32 } })
    parts[3] = "123456789"
    local reader <close> = assert(zip.open { data = table.concat(parts) })
    assert.equal("123456789", reader:read("big"))
    parts[3] = "123456780"
    local damaged <close> = assert(zip.open { data = table.concat(parts) })
    assert.is_nil((damaged:read("big")))
  end)

  it("is told why a file has no checksum", function()
    local function refused(code, path)
      local none, message, got = zip.crc32_file(path)
      assert.is_nil(none)
      assert.equal(code, got)
      assert.matches("^crc32_file: ", message)
    end
    refused("ENOENT", folder .. "/none")
    refused("EISDIR", folder)
    assert.has_error(function() zip.crc32_file("a\0b") end)
    assert.has_error(function() zip.crc32_file("") end)
    assert.has_error(function() zip.crc32_file({}) end)
    local file = assert(io.open(folder .. "/empty", "wb"))
    file:close()
    assert.same({ 0, 0 }, { zip.crc32_file(folder .. "/empty") })
  end)

  it("blames a template for a large file that is gone, and not for one that this host cannot read", function()
    local function code_of(path)
      return select(3, asset.list { { name = "film.mp4", path = path, file = { size = 1 } } })
    end
    assert.equal("template_version", code_of(folder .. "/gone"))
    assert.equal("EISDIR", code_of(folder))
  end)
end)
