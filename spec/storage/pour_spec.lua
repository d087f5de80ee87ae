local pour = require "storage.pour"
local program = require "spec.support.program"
local reader = require "storage.reader"

-- A reader whose store fails after so many bytes.
local function failing(after, size)
  return reader.new(function(from, to)
    if to >= after then
      return nil, "storage: s3: get k: connection reset", "unavailable"
    end
    return { data = ("x"):rep(to - from + 1), etag = "e", size = size }
  end, { size = size, etag = "e" }, "k")
end

describe("storage.pour", function()
  local dir

  before_each(function()
    dir = program.folder()
  end)

  after_each(function()
    program.remove(dir)
  end)

  local function slurp(path)
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end

  it("carries all that is left, in pieces", function()
    local path, seen = dir .. "/out", {}
    local from = failing(math.huge, (2 << 20) + 5)
    from:seek("set", 3)
    assert.is_true(pour.into_file(from, path, function(data)
      seen[#seen + 1] = #data
    end))
    assert.same({ 1 << 20, 1 << 20, 2 }, seen)
    assert.equal((2 << 20) + 2, #slurp(path))
    local copy <close> = assert(io.open(path, "rb"))
    local total = 0
    assert.is_true(pour.pour(copy, function(data)
      total = total + #data
      return true
    end))
    assert.equal((2 << 20) + 2, total)
  end)

  it("tells what the reader fails with, and leaves no file", function()
    local none, message, code = pour.into_file(failing(2 << 20, 3 << 20), dir .. "/out")
    assert.same({ nil, "storage: s3: get k: connection reset", "unavailable" }, { none, message, code })
    assert.is_nil(io.open(dir .. "/out"))
  end)

  it("tells what the sink refuses", function()
    local from = failing(math.huge, 5)
    assert.same({ nil, "no room", "full" }, { pour.pour(from, function()
      return nil, "no room", "full"
    end) })
  end)

  it("tells what a file cannot be read or written with", function()
    local folder <close> = assert(io.open(dir, "rb"))
    assert.same({ nil, "Is a directory", "io" }, { pour.pour(folder, print) })
    assert.equal("io", select(3, pour.into_file(failing(math.huge, 1), dir .. "/none/out")))
  end)

  it("finds a full disk, also with the last bytes, and leaves no file", function()
    program.mount(dir, "size=64k")
    finally(function()
      program.unmount(dir)
    end)
    for _, size in ipairs { 65537, 300000 } do
      local none, message, code = pour.into_file(failing(math.huge, size), dir .. "/out")
      assert.is_nil(none)
      assert.matches("No space left", message, 1, true)
      assert.equal("full", code)
      assert.is_nil(io.open(dir .. "/out"))
    end
    assert.is_true(pour.into_file(failing(math.huge, 50000), dir .. "/out"))
  end)
end)
