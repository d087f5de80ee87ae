-- How far a process is with a large file, as another one sees it.
local copying = require "cli.storage"
local program = require "spec.support.program"
local progress = require "cli.progress"
local unistd = require "posix.unistd"

describe("the progress of a large file", function()
  local folder

  before_each(function()
    folder = program.folder()
    assert(os.execute(("mkdir %s/staging && head -c 3M /dev/zero >%s/asset && cp %s/asset %s/staging/bundle.ate"):format(
      folder, folder, folder, folder)))
  end)

  after_each(function()
    program.remove(folder)
  end)

  local function look()
    return progress.look(unistd.getpid(), folder .. "/staging")
  end

  it("is none while none is open", function()
    assert.is_nil(look())
    local asset <close> = assert(io.open(folder .. "/asset"))
    assert.is_nil(look())
    asset:close()
  end)

  it("is how much of the sealed file is written, of what is read for it", function()
    local asset <close> = assert(io.open(folder .. "/asset"))
    local sealed <close> = assert(io.open(folder .. "/staging/.new", "w+"))
    sealed:write(("x"):rep(1 << 20))
    sealed:flush()
    assert.same({ stage = "sealing", done = 1 << 20, total = 3 << 20 }, look())
    asset:close()
  end)

  it("is how much of the sealed file is read when it is stored", function()
    local sealed <close> = assert(io.open(folder .. "/staging/bundle.ate"))
    sealed:seek("set", 2 << 20)
    assert.same({ stage = "storing", done = 2 << 20, total = 3 << 20 }, look())
  end)

  it("is of what the file will have while it is being made", function()
    local note <close> = assert(io.open(folder .. "/staging/bundle.ate.size", "w"))
    note:write(5 << 20)
    note:close()
    local sealed <close> = assert(io.open(folder .. "/staging/bundle.ate"))
    sealed:seek("set", 2 << 20)
    assert.same({ stage = "storing", done = 2 << 20, total = 5 << 20 }, look())
  end)

  it("is a bar of a copy, too, where it is known how much there is", function()
    local counts = { copied = 2, present = 1, failed = 0, bytes = 3000 }
    assert.equal("  2 copied, 3.0 kB, 1 there already, 0 failed", copying.line(counts))
    local line = copying.line(counts, 6)
    assert.matches("3 of 6, 2 copied", line, 1, true)
    assert.equal(15, select(2, line:gsub("█", "")))
    assert.matches("3 of 3,", copying.line(counts, 1), 1, true)
    assert.matches("0 of 0,", copying.line({ copied = 0, present = 0, failed = 0, bytes = 0 }, 0), 1, true)
  end)

  it("is shown on a terminal only", function()
    local script = assert(io.open(folder .. "/start.lua", "w"))
    script:write [[print(require("cli.progress").start "/")]]
    script:close()
    local code, out, err = program.run { "run", folder .. "/start.lua" }
    assert.same({ 0, "nil\n", "" }, { code, out, err })
  end)
end)
