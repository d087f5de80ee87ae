-- The supervisor: real children, which are this program under another title and no process of the service.
local host = require "atelier.host"
local master = require "atelier.master"
local oom = require "oom"
local program = require "spec.support.program"
local signal = require "posix.signal"
local socket = require "posix.sys.socket"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"

local PATIENCE = 120 -- seconds, for what must happen

describe("atelier.master", function()
  local supervisor, dir

  before_each(function()
    dir = program.folder()
    supervisor = assert(master.open())
  end)

  after_each(function()
    supervisor:close()
    program.remove(dir)
    collectgarbage()
    collectgarbage()
    assert.equal(0, master.live_handles())
  end)

  -- A child that runs a shell script; its title is $0.
  local function script(text)
    local path = dir .. "/child"
    local file = assert(io.open(path, "w"))
    file:write("#!/bin/sh\n", text, "\n")
    file:close()
    assert(os.execute("chmod 755 " .. path))
    return path
  end

  local function spawn(text, options)
    local all = { exe = script(text), title = "title" }
    for name, value in pairs(options or {}) do all[name] = value end
    return assert(supervisor:spawn(all))
  end

  local function next_event()
    return assert(supervisor:wait(PATIENCE))
  end

  local function read(path)
    local file = assert(io.open(path))
    local text = file:read "a"
    file:close()
    return text
  end

  it("tells how a child ended: its code, or the signal", function()
    local id, pid = supervisor:spawn { exe = script "exit 7", title = "a" }
    assert.same({ type = "end", id = id, pid = pid, code = 7 }, next_event())
    id, pid = supervisor:spawn { exe = script "kill -9 $$", title = "b" }
    assert.same({ type = "end", id = id, pid = pid, signal = "KILL" }, next_event())
    id = spawn "kill -50 $$"
    local event = next_event()
    assert.same({ id, "50" }, { event.id, event.signal })
  end)

  it("gives a child its title as all of its command line, under which the program knows itself", function()
    local id = assert(supervisor:spawn { exe = host.exe, title = "atelier: nothing" })
    local event = next_event()
    assert.same({ id, 2 }, { event.id, event.code })
    id = assert(supervisor:spawn { exe = dir .. "/not there", title = "atelier: nothing" })
    event = next_event() -- the running program steps in for a file that is just being replaced
    assert.same({ id, 2 }, { event.id, event.code })
  end)

  it("sets, replaces and removes variables, and passes the rest on", function()
    stdlib.setenv("MASTER_A", "old")
    stdlib.setenv("MASTER_B", "kept")
    stdlib.setenv("MASTER_C", "gone")
    spawn(('echo "$MASTER_A,$MASTER_B,${MASTER_C-none},$MASTER_D" >%s/out'):format(dir), { env = { MASTER_A = "new",
      MASTER_C = false, MASTER_D = "a=b" } })
    assert.equal(0, next_event().code)
    assert.equal("new,kept,none,a=b\n", read(dir .. "/out"))
  end)

  it("leaves a child its channel and what it is to keep, and nothing else", function()
    local reader, writer = unistd.pipe()
    local fcntl = require "posix.fcntl"
    fcntl.fcntl(reader, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    spawn(('echo kept >&%d; [ -e /proc/self/fd/%d ] && exit 1; [ -S /proc/self/fd/$ATELIER_CONTROL_FD ]'):format(writer,
      reader), { keep = { writer } })
    assert.equal(0, next_event().code)
    assert.equal("kept\n", unistd.read(reader, 100))
    unistd.close(reader)
    unistd.close(writer)
  end)

  -- A child with a channel that it uses: this program, run as a script.
  local function talking(text)
    local path = dir .. "/talk.lua"
    local file = assert(io.open(path, "w"))
    file:write([[local master = require "atelier.master"
      local control = assert(master.control(tonumber(os.getenv "ATELIER_CONTROL_FD")))
      ]], text)
    file:close()
    return spawn(("exec %s run %s"):format(host.exe, path))
  end

  it("carries messages both ways, whole, a child's last ones before its end", function()
    local id = talking [[
      local text = assert(control:receive(100))
      assert(control:send(text:upper()))
      assert(control:send "\0 and \0")
      os.exit(3)]]
    assert.is_true(supervisor:send(id, ("x"):rep(100000)))
    local event = next_event()
    assert.same({ "message", id, ("X"):rep(100000) }, { event.type, event.id, event.text })
    assert.equal("\0 and \0", next_event().text)
    assert.equal(3, next_event().code)
    local _, _, code = supervisor:send(id, "too late")
    assert.equal("ESRCH", code)
  end)

  it("does not wait for a child that does not read", function()
    local id = spawn "exec sleep 1000"
    local ok, message, code
    repeat ok, message, code = supervisor:send(id, ("x"):rep(1000)) until not ok
    assert.equal("EAGAIN", code)
    assert.matches("^send: child: ", message)
    assert.is_true(supervisor:kill(id, "TERM"))
    assert.equal("TERM", next_event().signal)
  end)

  it("shows a child that it is gone", function()
    local id = talking(([[
      assert(control:send "here")
      local text, message, code = control:receive(100)
      local file = io.open("%s/seen.new", "w")
      file:write(tostring(text), " ", code)
      file:close()
      os.rename("%s/seen.new", "%s/seen")
      ]]):format(dir, dir, dir))
    assert.same({ "message", id }, { next_event().type, id })
    supervisor:close()
    local deadline = os.time() + PATIENCE
    while not io.open(dir .. "/seen") do assert(os.time() < deadline) end
    assert.equal("nil gone", read(dir .. "/seen"))
  end)

  it("says that no message is there, and that the master has ended", function()
    local fds = { socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET or 5, 0) }
    local control = assert(master.control(fds[1]))
    local _, message, code = control:receive()
    assert.same({ "receive: master: no message", "empty" }, { message, code })
    assert.equal(fds[1], control:fd())
    assert.equal(4, socket.send(fds[2], "text"))
    assert.equal("text", control:receive(0.1))
    assert.equal("EMSGSIZE", select(3, control:send(("x"):rep(128 * 1024 + 1))))
    assert.is_true(control:send(("x"):rep(128 * 1024)))
    unistd.close(fds[2])
    assert.equal("gone", select(3, control:receive(0.1)))
    assert.equal("EPIPE", select(3, control:send "x"))
    control:close()
    control:close()
    assert.matches("closed", tostring(control))
    for _, call in ipairs { "send", "receive", "fd" } do
      assert.error_matches(function() control[call](control, "x") end, "control is closed")
    end
  end)

  it("refuses a channel that is none", function()
    local _, _, code = master.control(1 << 20)
    assert.equal("EBADF", code)
    local fds = { socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM, 0) }
    _, _, code = master.control(fds[1])
    assert.equal("EPROTOTYPE", code)
    for _, fd in ipairs(fds) do unistd.close(fd) end
    assert.error_matches(function() master.control(-1) end, "must be a descriptor")
    assert.error_matches(function() master.control "x" end, "number expected")
  end)

  it("takes signals as events, and leaves them again", function()
    for _, name in ipairs { "HUP", "TERM", "INT" } do
      signal.kill(unistd.getpid(), signal["SIG" .. name])
      assert.same({ type = "signal", name = name }, next_event())
    end
    assert.is_nil(supervisor:wait(0))
  end)

  it("tells of what is written, renamed and removed in a folder", function()
    local watch = assert(supervisor:watch(dir))
    local function wait_for(name)
      local event
      repeat event = next_event() until event.name == name
      assert.same({ "change", watch }, { event.type, event.watch })
    end
    script "exit"
    wait_for "child"
    os.rename(dir .. "/child", dir .. "/other")
    wait_for "other"
    os.remove(dir .. "/other")
    wait_for "other"
    supervisor:unwatch()
    script "exit"
    assert.is_nil(supervisor:wait(0))
    assert.equal("ENOENT", select(3, supervisor:watch(dir .. "/none")))
    assert.equal("ENOTDIR", select(3, supervisor:watch(dir .. "/child")))
    assert.error_matches(function() supervisor:watch "a\0b" end, "zero bytes")
  end)

  it("tells the service manager, by a path or an abstract name", function()
    assert.is_false(master.notify "READY=1")
    local path = dir .. "/notify"
    local fd = assert(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0))
    assert(socket.bind(fd, { family = socket.AF_UNIX, path = path }))
    stdlib.setenv("NOTIFY_SOCKET", path)
    assert.is_true(master.notify "READY=1\nSTATUS=well")
    assert.equal("READY=1\nSTATUS=well", socket.recv(fd, 100))
    for name, code in pairs { [dir .. "/none"] = "ENOENT", ["relative"] = "EINVAL", ["/" .. ("x"):rep(200)] = "EINVAL",
      ["@atelier-spec-nobody"] = "ECONNREFUSED" } do
      stdlib.setenv("NOTIFY_SOCKET", name)
      assert.equal(code, select(3, master.notify "READY=1"))
    end
    stdlib.setenv("NOTIFY_SOCKET", nil)
    assert.error_matches(function() master.notify "" end, "must not be empty")
    unistd.close(fd)
  end)

  it("raises for what a caller should know better", function()
    local exe = script "exit 0"
    local function refuses(options, pattern)
      assert.error_matches(function() supervisor:spawn(options) end, pattern)
    end
    refuses({ exe = exe, title = "a", color = 1 }, "unknown option 'color'")
    refuses({ title = "a" }, "'exe' must be a string")
    refuses({ exe = exe }, "'title' must be a string")
    refuses({ exe = exe, title = "a\0b" }, "'title' must be a string without zero bytes")
    refuses({ exe = exe, title = "a", env = 1 }, "'env' must be a table")
    refuses({ exe = exe, title = "a", env = { A = 1 } }, "a value in option 'env'")
    refuses({ exe = exe, title = "a", env = { "A" } }, "a name in option 'env'")
    refuses({ exe = exe, title = "a", env = { A = "\0" } }, "a value in option 'env'")
    refuses({ exe = exe, title = "a", keep = { 1 << 20 } }, "no open descriptor")
    refuses({ exe = exe, title = "a", keep = { "x" } }, "no open descriptor")
    refuses({ exe = exe, title = "a", keep = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } }, "too long")
    refuses(nil, "table expected")
    assert.error_matches(function() supervisor:kill(1, "NOTHING") end, "no such signal")
    assert.error_matches(function() supervisor:send(1, "") end, "must not be empty")
    assert.error_matches(function() supervisor:wait(-1) end, "0 or more seconds")
    assert.error_matches(function() supervisor:wait(0 / 0) end, "0 or more seconds")
    assert.error_matches(master.open, "supervises already")
    assert.equal("ESRCH", select(3, supervisor:kill(99, "TERM")))
    assert.equal("ESRCH", select(3, supervisor:send(-1, "x")))
  end)

  it("raises once it is closed, which may happen twice", function()
    supervisor:close()
    supervisor:close()
    assert.matches("closed", tostring(supervisor))
    for _, call in ipairs { "spawn", "send", "kill", "watch", "unwatch", "wait" } do
      assert.error_matches(function() supervisor[call](supervisor, 1, "x") end, "supervisor is closed")
    end
    assert.equal(0, master.live_handles())
  end)

  it("outlives want of memory at every step", function()
    supervisor:close()
    local exe = script "exit 0"
    oom.run(function()
      local own <close> = assert(master.open())
      assert(own:spawn { exe = exe, title = "a", env = { A = "b" }, keep = { 0 } })
      while own:wait(PATIENCE).type ~= "end" do end -- luacheck: ignore 542
    end)
    assert.equal(0, master.live_handles())
  end)

  it("keeps many children apart", function()
    -- One script for all: a file that is being executed cannot be written.
    local exe, codes = script "exit $CODE", {}
    for i = 1, 60 do
      codes[assert(supervisor:spawn { exe = exe, title = "n", env = { CODE = tostring(i) } })] = i
    end
    for _ = 1, 60 do
      local event = next_event()
      assert.equal(codes[event.id], event.code)
      codes[event.id] = nil
    end
    assert.is_nil(next(codes))
  end)
end)
