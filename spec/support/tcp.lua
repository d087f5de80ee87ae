--- A raw TCP client for the specs: what it sends is what was given, byte for byte.
--
-- @module spec.support.tcp
local poll = require "posix.poll"
local socket = require "posix.sys.socket"
local unistd = require "posix.unistd"

local M = {}

local Client = {}
Client.__index = Client

--- Connects to a port of this machine.
-- @tparam integer port
-- @tparam[opt] integer window size of the receive buffer in bytes: small, so that a slow reader blocks the sender soon
function M.connect(port, window)
  local fd = assert(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
  if window then
    assert(socket.setsockopt(fd, socket.SOL_SOCKET, socket.SO_RCVBUF, window))
  end
  assert(socket.connect(fd, { family = socket.AF_INET, addr = "127.0.0.1", port = port }))
  return setmetatable({ fd = fd, buffer = "" }, Client)
end

--- Sends all of it; false when the other side does not take it any more.
function Client:send(text)
  while #text > 0 do
    local n = socket.send(self.fd, text)
    if not n then return false end
    text = text:sub(n + 1)
  end
  return true
end

--- Reads what is there into the buffer, waiting at most so many seconds (60). Nil at the end, false when nothing came.
function Client:fill(seconds)
  if poll.rpoll(self.fd, math.floor((seconds or 60) * 1000)) ~= 1 then return false end
  local text = socket.recv(self.fd, 262144)
  if not text or text == "" then
    self.is_ended, self.is_reset = true, not text
    return nil
  end
  self.buffer = self.buffer .. text
  return true
end

--- Whether the other side closes (or resets) the connection within so many seconds (60). What comes before stays readable.
function Client:is_closed(seconds)
  local left = seconds or 60
  while not self.is_ended do
    if self:fill(left) == false then return false end
  end
  return true
end

-- In pieces: joined one by one, 20 MB through a small window are gigabytes to copy, and the server takes that for a stall.
function Client:take(n)
  local parts, size, went = {}, #self.buffer, true
  while size < n and went do
    parts[#parts + 1], self.buffer = self.buffer, ""
    went = self:fill()
    size = size + #self.buffer
  end
  parts[#parts + 1] = self.buffer
  self.buffer = table.concat(parts)
  if size < n then return nil, self.buffer end
  local text = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return text
end

function Client:line()
  local line, rest = self.buffer:match("^(.-)\r\n(.*)$")
  while not line do
    if not self:fill() then return nil end
    line, rest = self.buffer:match("^(.-)\r\n(.*)$")
  end
  self.buffer = rest
  return line
end

local function chunks(client)
  local all = {}
  while true do
    local size = tonumber(client:line() or "", 16)
    if not size then return table.concat(all), false end
    local text = client:take(size)
    client:line()
    if size == 0 or not text then return table.concat(all), size == 0 end
    all[#all + 1] = text
  end
end

--- Reads one response: {status, headers, body, complete}; nil when the connection ends before one. `head`: it has no body.
function Client:response(head)
  local status = tonumber((self:line() or ""):match("^HTTP/1%.1 (%d%d%d) "))
  if not status then return nil end
  local headers = {}
  for line in function() return self:line() end do
    if line == "" then break end
    local name, value = line:match("^([^:]+): (.*)$")
    assert(not headers[name:lower()], "header twice: " .. name)
    headers[name:lower()] = value
  end
  local r = { status = status, headers = headers, body = "", complete = true }
  if head or status == 100 or status == 204 or status == 304 then return r end
  if headers["transfer-encoding"] then
    r.body, r.complete = chunks(self)
  elseif headers["content-length"] then
    local body, part = self:take(tonumber(headers["content-length"]))
    r.body, r.complete = body or part, body ~= nil
  else
    while self:fill() do end -- luacheck: ignore 542
    r.body, self.buffer = self.buffer, ""
  end
  return r
end

--- Sends a request and reads its response.
function Client:ask(text, head)
  self:send(text)
  return self:response(head)
end

function Client:finish()
  socket.shutdown(self.fd, socket.SHUT_WR)
end

function Client:close()
  if self.fd then unistd.close(self.fd) end
  self.fd = nil
end

--- Closes with a reset.
function Client:reset()
  socket.setsockopt(self.fd, socket.SOL_SOCKET, socket.SO_LINGER, 1, 0)
  self:close()
end

return M
