-- A network between a worker and the database that can be cut: forwards TCP connections to a unix socket. When a client
-- sends the fatal word it is cut off at that moment: neither that nor anything after it arrives, nobody is told, until
-- the gate is opened. Run by the program: relay.lua FOLDER SOCKET WORD; FOLDER gets `port` and `cut`, the gate is `gate`.
local poll = require "posix.poll"
local socket = require "posix.sys.socket"
local unistd = require "posix.unistd"

local folder, target, word = table.unpack(arg)
local links = {} -- by descriptor: {other, tail}
local is_cut = false

local function write(name, text)
  local file = assert(io.open(folder .. "/." .. name, "w"))
  file:write(text)
  file:close()
  assert(os.rename(folder .. "/." .. name, folder .. "/" .. name))
end

local function is_open()
  local file = io.open(folder .. "/gate")
  return file and file:close() or false
end

local function send(fd, data)
  while #data > 0 do
    local n = socket.send(fd, data)
    if not n then
      return
    end
    data = data:sub(n + 1)
  end
end

local function close(fd)
  local link = links[fd]
  for _, side in ipairs { fd, link.other } do
    links[side] = nil
    unistd.close(side)
  end
end

local function accept(listener)
  local client = assert(socket.accept(listener))
  local server = assert(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0))
  assert(socket.connect(server, { family = socket.AF_UNIX, path = target }))
  links[client] = { other = server, tail = "", is_client = true }
  links[server] = { other = client, tail = "" }
end

-- Until the gate opens, nothing that is sent is even read.
local function wait_for_gate()
  write("cut", "")
  while not is_open() do
    poll.poll({}, 20)
  end
end

local function forward(fd)
  local link = links[fd]
  local data = socket.recv(fd, 65536)
  if not data or data == "" then
    return close(fd)
  end
  if link.is_client and not is_cut then
    local seen = link.tail .. data
    link.tail = seen:sub(-#word)
    if seen:find(word, 1, true) then
      is_cut = true
      wait_for_gate()
    end
  end
  send(link.other, data)
end

local listener = assert(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
assert(socket.bind(listener, { family = socket.AF_INET, addr = "127.0.0.1", port = 0 }))
assert(socket.listen(listener, 10))
write("port", tostring(socket.getsockname(listener).port))
while true do
  local fds = { [listener] = { events = { IN = true } } }
  for fd in pairs(links) do
    fds[fd] = { events = { IN = true } }
  end
  poll.poll(fds, -1)
  for fd, state in pairs(fds) do
    if state.revents and (state.revents.IN or state.revents.HUP or state.revents.ERR) then
      if fd == listener then
        accept(listener)
      elseif links[fd] then
        forward(fd)
      end
    end
  end
end
