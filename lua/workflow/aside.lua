--- A function that runs aside: in a process of its own, a copy of this one, which says what came of it and ends.
--
-- What the copy inherits is not its to use or to close: it holds no descriptor of its parent, so that a database sees
-- at once when that one is gone, and collects nothing. It ends with its parent, also where that one is killed: nobody
-- is left to hear it. Knows nothing of what is done.
-- @module workflow.aside
local dirent = require "posix.dirent"
local errno = require "posix.errno"
local json = require "atelier.json"
local master = require "atelier.master"
local poll = require "posix.poll"
local signal = require "posix.signal"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local M = {}
local Aside = {}
Aside.__index = Aside

local MOST = 4096 -- bytes of what it says: a pipe takes them at once

local function close_inherited(keep)
  local there, names = pcall(dirent.dir, "/proc/self/fd")
  for _, name in ipairs(there and names or {}) do
    local fd = tonumber(name)
    if fd and fd > 2 and fd ~= keep then
      unistd.close(fd)
    end
  end
end

-- In the copy.
local function speak(f, to)
  collectgarbage "stop"
  close_inherited(to)
  local ok, value, message, code = pcall(f)
  local said = ok and value and { value = value }
    or { message = tostring(ok and message or value), code = ok and code or "internal" }
  unistd.write(to, (assert(json.encode(said))))
end

--- Begins.
-- @tparam function f → table of plain values | nil, message, code
-- @treturn[1] table aside
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "io"
function M.run(f)
  local from, to = unistd.pipe()
  if not from then
    return nil, "aside: no pipe: " .. to, "io"
  end
  local maker = unistd.getpid()
  local pid, problem = unistd.fork()
  if pid == 0 then
    if master.follow(maker) then
      pcall(speak, f, to)
    end
    unistd._exit(0)
  end
  unistd.close(to)
  if not pid then
    unistd.close(from)
    return nil, "aside: no process: " .. problem, "io"
  end
  return setmetatable({ pid = pid, from = from }, Aside)
end

local function reap(self)
  repeat
    local pid, _, number = wait.wait(self.pid)
  until pid or number ~= errno.EINTR
  unistd.close(self.from)
  self.pid = nil
end

local function hear(self)
  local pieces = {}
  repeat
    local text, _, number = unistd.read(self.from, MOST)
    pieces[#pieces + 1] = text
  until text == "" or not text and number ~= errno.EINTR
  local said = json.decode(table.concat(pieces))
  self.said = type(said) == "table" and said or { message = "the process ended, and said nothing", code = "io" }
end

--- What it said, if it has ended.
-- @treturn[1] table of what the function gave, as `value`, or `message` and `code`
-- @treturn[2] nil while it runs
function Aside:poll()
  if self.pid and poll.rpoll(self.from, 0) == 1 then
    hear(self)
    reap(self)
  end
  return self.said
end

--- Ends it, if it runs.
function Aside:stop()
  if self.pid then
    signal.kill(self.pid, signal.SIGKILL)
    reap(self)
    self.said = { message = "was stopped", code = "io" }
  end
end

Aside.__gc = Aside.stop

return M
