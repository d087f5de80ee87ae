local json = require "atelier.json"
local log = require "log"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local LICENCE = "7Q4ZD-0H3MK-W8XTA-9BCFG-J2NPR"
local TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl-X_9"

describe("a log line", function()
  local out

  before_each(function()
    out = assert(io.tmpfile())
  end)

  after_each(function()
    log.configure { out = io.stderr }
    out:close()
  end)

  local function written()
    out:seek "set"
    return out:read "a"
  end

  local function line(format, event, fields, by)
    log.configure { format = format, out = out, process = by }
    log.info(event, fields)
    local text = written()
    assert.equal(1, select(2, text:gsub("\n", "")))
    return text
  end

  it("as text is one line that drives no terminal", function()
    assert.matches(" info job failed a=1 b=x\\x0ay\\x1b%[2J é \\xc2\\x9b2J\u{a0}$",
      line("text", "job failed", { a = 1, b = "x\ny\27[2J é \u{9b}2J\u{a0}" }):gsub("\n$", ""))
  end)

  it("as JSON keeps all of its fields, whatever one of them holds", function()
    local object = assert(json.decode(line("json", "job failed", { queue_id = "7", bytes = 5, share = 0 / 0,
      reason = "no such file: caf\xe9\n.lua", name = "é" })))
    assert.matches("^%d+%-%d+%-%d+T%d+:%d+:%d+%.%d%d%dZ$", object.time)
    object.time = nil
    object.share = object.share:gsub("^%-", "")
    assert.same({ level = "info", event = "job failed", queue_id = "7", bytes = 5, share = "nan", pid = unistd.getpid(),
      reason = "no such file: caf\\xe9\\x0a.lua", name = "é" }, object)
  end)

  it("as JSON keeps numbers, booleans and null what they are", function()
    local object = json.decode(line("json", "x", { created = true, lost = false, none = json.null, n = 1.5 }))
    assert.same({ true, false, json.null, 1.5 }, { object.created, object.lost, object.none, object.n })
    out:close()
    out = assert(io.tmpfile())
    assert.matches(" info x created=true lost=false none=null\n$",
      line("text", "x", { created = true, lost = false, none = json.null }))
  end)

  it("names its process, and lets no field pretend to be the line's own", function()
    assert.matches(" info front 1: job failed a=1\n$", line("text", "job failed", { a = 1 }, "front 1"))
    out:close()
    out = assert(io.tmpfile())
    stdlib.setenv("ATELIER_PROCESS", "worker 2")
    local object = assert(json.decode(line("json", "x", { from = "me", level = "error", process = "front 1" })))
    stdlib.setenv("ATELIER_PROCESS", nil)
    assert.equal("worker 2", object.from)
    assert.equal("info", object.level)
    assert.equal("me", object.from_)
    assert.equal("error", object.level_)
    assert.equal("front 1", object.process)
  end)

  it("is as long as a pipe takes whole, at most", function()
    for _, format in ipairs { "text", "json" } do
      for _, fields in ipairs { { reason = ("é"):rep(5000), queue_id = "7" }, { reason = ('"'):rep(9000), queue_id = "7" },
        { a = ("a"):rep(3000), b = ("b"):rep(3000), queue_id = "7" } } do
        out:close()
        out = assert(io.tmpfile())
        local text = line(format, "job failed", fields)
        assert.is_true(#text <= 4096 and #text > 3000, #text)
        assert.is_truthy(utf8.len(text))
        assert.matches("…", text, 1, true)
        assert.matches(format == "text" and "queue_id=7" or '"queue_id":"7"', text, 1, true)
        assert.is_truthy(format == "text" or json.decode(text))
      end
    end
    local many = {}
    for i = 1, 2000 do
      many["field" .. i] = i
    end
    out:close()
    out = assert(io.tmpfile())
    assert.matches("shortened=fields left out", line("text", ("x"):rep(9000), many), 1, true)
  end)

  it("has what its logger was given, and nothing of another's", function()
    log.configure { out = out, format = "text" }
    local first, second = log.with { request = "r1", a = 1 }, log.with { request = "r2" }
    first:with({ queue_id = "q1" }):warn("one", { a = 2 })
    second:info "two"
    first:error "three"
    local text = written()
    assert.matches(" warn one a=2 queue_id=q1 request=r1\n", text, 1, true)
    assert.matches(" info two request=r2\n", text, 1, true)
    assert.matches(" error three a=1 request=r1\n", text, 1, true)
  end)

  it("below the level is not written", function()
    log.configure { out = out, level = "warn" }
    log.info "no"
    log.with({}):debug "no"
    assert.is_false(log.is_on "info")
    assert.is_true(log.is_on "error")
    assert.equal("", written())
    assert.has_error(function() log.configure { level = "loud" } end)
  end)

  it("never shows what looks like a secret", function()
    log.configure { out = out, format = "text" }
    for _, text in ipairs { TOKEN, "GET /x Authorization: Bearer " .. TOKEN, "authorization=" .. TOKEN, "bearer abcdef-SECRET",
      "Authorization: Basic SECRET", "key " .. LICENCE .. " of a device", LICENCE:lower(), "postgres://me:SECRET@db/x",
      "host=db password=SECRET user=x", "host=db password='SECRET two' user=x", "/download/1?link=SECRET&a=1",
      "sb_secret_SECRET", '{"Authorization":"Bearer SECRET"}', "eyJhbGciOiJIUzI1NiJ9SECRET" } do
      log.info(text, { reason = text })
      log.info("x", { [text] = text })
    end
    for _, name in ipairs { "password", "token", "Authorization", "license_key", "secret" } do
      log.info("x", { [name] = "SECRET" })
    end
    local text = written()
    for _, secret in ipairs { "SECRET", "eyJ", "Zdf", "c2ln", LICENCE, LICENCE:lower(), "7Q4ZD" } do
      assert.is_nil(text:find(secret, 1, true), secret)
    end
    assert.matches("key [hidden key] of a device", text, 1, true)
    assert.matches("user=x", text, 1, true)
    assert.matches("&a=1", text, 1, true)
  end)

  it("leaves ids alone", function()
    log.configure { out = out, format = "text" }
    log.info("x", { queue_id = "0b6f4d0c-aaaa-4bbb-8ccc-0123456789ab", device = "DEMO-STARTER-001",
      checksum = ("ab"):rep(32), url = "http://127.0.0.1:8787/readyz", key = "generated/D-1/smartgram_x.ate" })
    local text = written()
    assert.is_nil(text:find("hidden", 1, true))
  end)

  it("is never mixed with those of other processes", function()
    local from, to = unistd.pipe()
    local pids = {}
    for i = 1, 4 do
      pids[i] = unistd.fork()
      if pids[i] == 0 then
        unistd.dup2(to, 2)
        for n = 1, 100 do
          log.info(("line%d"):format(i), { text = (tostring(i)):rep(3000), n = n })
        end
        unistd._exit(0)
      end
    end
    unistd.close(to)
    local pieces = {}
    repeat
      local piece = assert(unistd.read(from, 65536))
      pieces[#pieces + 1] = piece
    until piece == ""
    unistd.close(from)
    for _, pid in ipairs(pids) do
      wait.wait(pid)
    end
    local count = 0
    for text in table.concat(pieces):gmatch "[^\n]+" do
      local i = text:match "line(%d)"
      assert.matches(("^%%S+ info line%s n=%%d+ text=%s$"):format(i, i:rep(3000)), text)
      count = count + 1
    end
    assert.equal(400, count)
  end)
end)
