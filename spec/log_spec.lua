local json = require "atelier.json"
local log = require "log"

describe("a log line", function()
  local out

  before_each(function()
    out = assert(io.tmpfile())
  end)

  after_each(function()
    log.configure { out = io.stderr }
    out:close()
  end)

  local function line(format, event, fields)
    log.configure { format = format, out = out }
    log.info(event, fields)
    out:seek "set"
    local text = out:read "a"
    assert.equal(1, select(2, text:gsub("\n", "")))
    return text
  end

  it("as text is one line that drives no terminal", function()
    assert.matches(" info job failed a=1 b=x\\x0ay\\x1b%[2J é$",
      line("text", "job failed", { a = 1, b = "x\ny\27[2J é" }):gsub("\n$", ""))
  end)

  it("as JSON keeps all of its fields, whatever one of them holds", function()
    local object = assert(json.decode(line("json", "job failed", { queue_id = "7", bytes = 5, share = 0 / 0,
      reason = "no such file: caf\xe9\n.lua", name = "é" })))
    assert.matches("^%d+%-%d+%-%d+T", object.time)
    object.time = nil
    object.share = object.share:gsub("^%-", "")
    assert.same({ level = "info", event = "job failed", queue_id = "7", bytes = 5, share = "nan",
      reason = "no such file: caf\\xe9\\x0a.lua", name = "é" }, object)
  end)
end)
