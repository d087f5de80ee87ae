local clock = require "clock"
local fs = require "atelier.fs"
local oom = require "oom"
local program = require "spec.support.program"
local unistd = require "posix.unistd"

local function read(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local bytes = file:read("a")
  file:close()
  return bytes
end

local function listing(dir)
  local pipe = assert(io.popen("find '" .. dir .. "' -mindepth 1 | sort"))
  local text = pipe:read("a"):gsub(dir .. "/", "")
  pipe:close()
  return text
end

describe("atelier.fs", function()
  local dir, pool

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir '" .. dir .. "'"))
    pool = assert(fs.pool(dir, 4))
  end)

  after_each(function()
    pool:close()
    os.execute("rm -rf '" .. dir .. "'")
    collectgarbage()
    collectgarbage()
    assert.equal(0, fs.live_handles())
  end)

  it("writes parts in order, with the folders they need", function()
    local ticket = assert(pool:put("a/b/c.bin", { "one\0", "", "two" }))
    assert.is_true(pool:wait(ticket))
    assert.equal("one\0two", read(dir .. "/a/b/c.bin"))
    assert.equal("a\na/b\na/b/c.bin\n", listing(dir))
  end)

  it("keeps many in flight, whatever the collector does meanwhile", function()
    local tickets = {}
    for i = 1, 200 do
      local parts = { ("%d:"):format(i), ("x"):rep(i * 10) }
      tickets[i] = assert(pool:put(("d%d/f%d"):format(i % 7, i), parts))
      parts[1], parts[2] = nil, nil
      collectgarbage("step")
    end
    for i = 200, 1, -1 do
      assert.is_true(pool:wait(tickets[i]))
    end
    for i = 1, 200 do
      assert.equal(("%d:"):format(i) .. ("x"):rep(i * 10), read(("%s/d%d/f%d"):format(dir, i % 7, i)))
    end
  end)

  it("tells at once that a file is not there yet, and later that it is", function()
    local source = dir .. "/fifo"
    assert(os.execute("mkfifo '" .. source .. "'")) -- who opens it waits for a writer
    local held = assert(pool:put("held", source))
    local free = pool:put("free", { "x" })
    local seen = { { pool:wait(free) }, { pool:wait(held, 0) }, { pool:wait(held, 0.001) } }
    local writer = assert(io.open(source, "r+")) -- before anything may fail: a pool that is closed waits for its threads
    seen[4] = { pool:wait(held) }
    writer:close()
    assert.same({ true }, seen[1])
    assert.same({ nil, "put: held: not synced within 0 s", "timeout" }, seen[2])
    assert.same({ nil, "put: held: not synced within 0.001 s", "timeout" }, seen[3])
    assert.equal("EINVAL", seen[4][3]) -- it was no file to take over
  end)

  it("shows in a mere look when a file is there", function()
    local ticket, deadline = assert(pool:put("late", { "x" })), clock.now() + 60
    repeat
      local ok, message, code = pool:wait(ticket, 0)
      assert.is_true(ok or code == "timeout", message)
    until ok or clock.now() > deadline
    assert.equal("x", read(dir .. "/late"))
  end)

  it("says busy at 256 puts that nobody collected", function()
    local first = assert(pool:put("f1", { "x" }))
    for i = 2, 256 do
      assert(pool:put("f" .. i, { "x" }))
    end
    local ticket, message, code = pool:put("one_more", { "x" })
    assert.is_nil(ticket)
    assert.equal("busy", code)
    assert.equal("put: one_more: 256 puts wait to be collected", message)
    assert.is_true(pool:wait(first))
    assert(pool:put("one_more", { "x" }))
  end)

  it("is not held up by a ticket that nobody collects", function()
    assert(pool:put("lost", { "x" }))
    for i = 1, 300 do
      assert.is_true(pool:wait(assert(pool:put("f" .. i, { "x" }))))
    end
  end)

  it("never replaces a file", function()
    assert.is_true(pool:wait(assert(pool:put("same", { "old" }))))
    local ok, message, code = pool:wait(assert(pool:put("same", { "new" })))
    assert.is_nil(ok)
    assert.equal("EEXIST", code)
    assert.matches("put: same", message, 1, true)
    assert.equal("old", read(dir .. "/same"))
    assert.equal("same\n", listing(dir))
  end)

  it("is not hindered by what a process with its number left when it crashed", function()
    local left = {}
    for number = 0, 2000 do
      left[number] = (".%d.%d.tmp"):format(unistd.getpid(), number)
      assert(io.open(dir .. "/" .. left[number], "wb")):close()
    end
    assert.is_true(pool:wait(assert(pool:put("new", { "x" }))))
    assert.equal("x", read(dir .. "/new"))
    for _, name in pairs(left) do
      assert.equal("", read(dir .. "/" .. name))
    end
  end)

  it("takes over a file, by moving it or, from another file system, by copying", function()
    for _, from in ipairs { dir .. "/.source", "/dev/shm/atelier-fs-spec" } do
      local file = assert(io.open(from, "wb"))
      file:write(("0123456789"):rep(300000))
      file:close()
      local name = "taken" .. #from
      assert.is_true(pool:wait(assert(pool:put(name, from))))
      assert.equal(3000000, #read(dir .. "/" .. name))
      assert.is_nil(read(from))
    end
  end)

  it("reports what is in the way, and leaves nothing behind", function()
    assert.is_true(pool:wait(assert(pool:put("file", { "x" }))))
    local ok, message, code = pool:wait(assert(pool:put("file/below", { "x" })))
    assert.is_nil(ok)
    assert.equal("ENOTDIR", code)
    assert.matches("open folder", message, 1, true)
    assert.equal("ENOENT", select(3, pool:wait(assert(pool:put("y", dir .. "/missing")))))
    assert(os.execute("ln -s /tmp '" .. dir .. "/link'"))
    assert.equal("ENOTDIR", select(3, pool:wait(assert(pool:put("link/z", { "x" })))))
    assert.equal("file\nlink\n", listing(dir))
  end)

  it("refuses names that lead out or begin with a dot", function()
    for _, name in ipairs { "", "/x", "../x", "a/../x", "a//b", "a/", ".x", "a/.x", "a\0b", ("n"):rep(256), ("n/"):rep(600) } do
      assert.error(function() pool:put(name, { "x" }) end)
    end
    assert.error_matches(function() pool:put("x", dir .. "/a\0b") end, "not a path")
    assert.error_matches(function() fs.pool(dir .. "\0b") end, "NUL")
    assert.error(function() pool:put("x", { 1 }) end)
    assert.error(function() pool:put("x", true) end)
    assert.error_matches(function() pool:wait(99) end, "no such ticket")
  end)

  it("finishes what was put when it is closed, and then says that it is closed", function()
    for i = 1, 50 do
      assert(pool:put("f" .. i, { "x" }))
    end
    pool:close()
    pool:close()
    assert.equal("fs.pool: closed", tostring(pool))
    assert.error_matches(function() pool:put("g", { "x" }) end, "pool is closed")
    local _, count = listing(dir):gsub("\n", "")
    assert.equal(50, count)
  end)

  it("bears a finaliser that closes the pool while it is used", function()
    local function use(p, name)
      local ticket = p:put(name, { "x" })
      setmetatable({}, { __gc = function() p:close() end })
      p:wait(ticket)
      p:put(name .. ".2", { "x" })
    end
    collectgarbage("incremental", 10, 1000)
    finally(function() collectgarbage("incremental", 200, 100) end)
    for i = 1, 200 do
      local p <close> = assert(fs.pool(dir, 1))
      for _ = 1, i % 40 do
        local _ = {}
      end
      local ok, message = pcall(use, p, "f" .. i)
      assert(ok or message:find("pool is closed", 1, true), message)
    end
  end)

  it("is of no use to a forked child, which can let it go", function()
    local wait = require "posix.sys.wait"
    local child = assert(unistd.fork())
    if child == 0 then
      unistd.alarm(10)
      local _, message = pcall(pool.put, pool, "x", { "x" })
      pool:close()
      unistd._exit(message:find("pool belongs to another process", 1, true) and 7 or 1)
    end
    local _, how, code = wait.wait(child)
    assert.equal("exited", how)
    assert.equal(7, code)
    assert.is_true(pool:wait(assert(pool:put("x", { "x" }))))
  end)

  it("leaves signals to the program's own thread", function()
    local deaf, me = 0, unistd.getpid()
    for _, task in ipairs(require "posix.dirent".dir(("/proc/%d/task"):format(me))) do
      local status = tonumber(task) and read(("/proc/%d/task/%s/status"):format(me, task)) or ""
      if status:match("SigBlk:%s*%x+feff\n") then -- all of 1 to 16 but SIGKILL, which nobody can block
        deaf = deaf + 1
      end
    end
    assert.equal(4, deaf)
  end)

  it("reports a folder that is missing or is none", function()
    local ok, message, code = fs.pool(dir .. "/none")
    assert.is_nil(ok)
    assert.equal("ENOENT", code)
    assert.matches("open folder: .*none: No such file", message)
    assert.error(function() fs.pool(dir, 0) end)
    assert.error(function() fs.pool(dir, 65) end)
  end)

  it("survives the want of memory at every allocation", function()
    local n = 0
    assert.is_true(oom.run(function()
      n = n + 1
      local p <close> = fs.pool(dir, 2)
      p:wait(p:put("oom" .. n, { "a", "b" }))
    end) > 3)
  end)
end)

describe("atelier.fs on a full file system", function()
  it("fails the put and leaves no file", function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir '" .. dir .. "'"))
    program.mount(dir, "size=64k")
    finally(function() program.unmount(dir) os.remove(dir) end)
    local pool <close> = assert(fs.pool(dir, 2))
    local ok, message, code = pool:wait(assert(pool:put("big", { ("x"):rep(200000) })))
    assert.is_nil(ok)
    assert.equal("ENOSPC", code)
    assert.matches("put: big: write: No space left", message, 1, true)
    assert.equal("", listing(dir))
    assert.is_true(pool:wait(assert(pool:put("small", { "x" }))))
  end)
end)
