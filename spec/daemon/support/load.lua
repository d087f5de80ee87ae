--- Clients in child processes that ask one path over and over, and count what was not answered.
--
-- `keep` uses a connection as long as the server keeps it; that it is closed between two answers is no fault, since HTTP allows it and
-- every client opens another one. `fresh` opens one for each request, and must always be answered.
--
-- @module spec.daemon.support.load
local json = require "atelier.json"
local poll = require "posix.poll"
local signal = require "posix.signal"
local socket = require "posix.sys.socket"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Load = {}
Load.__index = Load

local PATIENCE = 120 -- seconds until an answer is taken not to come

local function connect(port)
  local fd = assert(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
  local ok, message = socket.connect(fd, { family = socket.AF_INET, addr = "127.0.0.1", port = port })
  if ok then return fd end
  unistd.close(fd)
  return nil, "connect: " .. message
end

-- One exchange: the status, or nil, what happened, and whether the connection ended before the first byte.
local function exchange(fd, request)
  local text = ""
  if not socket.send(fd, request) then return nil, "not sent", true end
  while true do
    local head, rest = text:match "^(.-\r\n\r\n)(.*)$"
    local length = head and tonumber(head:lower():match "content%-length: (%d+)")
    if length and #rest >= length then
      return tonumber(head:match "^HTTP/1.1 (%d+)"), head:lower():find("connection: close", 1, true) ~= nil
    end
    local ready = poll.rpoll(fd, PATIENCE * 1000)
    if ready == 0 then return nil, "no answer in time", false end
    local part = ready == 1 and socket.recv(fd, 65536) -- nil: a signal came meanwhile
    if ready == 1 and (not part or part == "") then
      return nil, ("connection ended after %d bytes"):format(#text), text == ""
    end
    text = text .. (part or "")
  end
end

local function note(counts, problem)
  counts.failed = counts.failed + 1
  counts.problem = counts.problem or problem
end

local function run_keep(port, request, counts, stop)
  local fd
  while not stop.asked do
    local status, what, before_first
    if not fd then fd, what = connect(port) end
    if not fd then
      note(counts, what)
    else
      local is_used = counts.on_this > 0
      status, what, before_first = exchange(fd, request)
      if status == 200 then
        counts.answered, counts.on_this = counts.answered + 1, counts.on_this + 1
      elseif status then
        note(counts, "status " .. status)
      elseif before_first and is_used then
        counts.reopened = counts.reopened + 1
      else
        note(counts, what)
      end
      if not status or what == true then
        unistd.close(fd)
        fd, counts.on_this = nil, 0
      end
    end
  end
end

local function run_fresh(port, request, counts, stop)
  while not stop.asked do
    local fd, what = connect(port)
    local status
    if fd then
      status, what = exchange(fd, request)
      unistd.close(fd)
    end
    if status == 200 then
      counts.answered = counts.answered + 1
    else
      note(counts, status and "status " .. status or what)
    end
  end
end

local function child(kind, port, path, file)
  local stop, counts = {}, { answered = 0, failed = 0, reopened = 0, on_this = 0 }
  signal.signal(signal.SIGTERM, function() stop.asked = true end)
  local request = ("GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(path, kind == "fresh" and "Connection: close\r\n" or "")
  local run = kind == "fresh" and run_fresh or run_keep
  run(port, request, counts, stop)
  local out = assert(io.open(file, "w"))
  out:write(json.encode(counts))
  out:close()
end

--- Starts clients: `kinds` is a list of "keep" and "fresh".
function M.start(port, path, kinds)
  local self = setmetatable({ children = {} }, Load)
  for i, kind in ipairs(kinds) do
    local file = os.tmpname()
    local pid = assert(unistd.fork())
    if pid == 0 then
      local ok, message = xpcall(child, debug.traceback, kind, port, path, file)
      if not ok then io.stderr:write(message, "\n") end
      unistd._exit(ok and 0 or 1)
    end
    self.children[i] = { pid = pid, file = file }
  end
  return self
end

--- Ends them.
-- @treturn {table,...} counts of each: answered, failed, reopened, problem (the first)
function Load:stop()
  local all = {}
  for i, c in ipairs(self.children) do
    signal.kill(c.pid, signal.SIGTERM)
    local _, how, code = wait.wait(c.pid)
    assert(how == "exited" and code == 0, ("a client ended badly: %s %s"):format(how, code))
    local file = assert(io.open(c.file))
    all[i] = assert(json.decode(file:read "a"))
    file:close()
    os.remove(c.file)
  end
  return all
end

return M
