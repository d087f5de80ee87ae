-- atelier.httpd: more clients than there is room for, silent ones, slow ones, and no descriptors left.
-- CROWD says how many silent connections there are: 200, or what the limit of open files allows; 10000 takes a minute.
local child = require "spec.support.httpd_child"
local httpd = require "atelier.httpd"
local json = require "atelier.json"
local resource = require "posix.sys.resource"
local signal = require "posix.signal"
local tcp = require "spec.support.tcp"
local unistd = require "posix.unistd"

local ASK = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
local PATIENT = { header_seconds = 600, idle_seconds = 600, handler_seconds = 600 }

local PAGES = {}

-- As many streams as one likes; "/end" ends them.
local held = {}

PAGES["/hold"] = function(request)
  held[#held + 1] = httpd.current()
  request:respond { stream = true }
  request:write "begun"
  httpd.park()
end

PAGES["/end"] = function(request)
  for i = #held, 1, -1 do table.remove(held, i):wake() end
  request:respond { body = "ended" }
end

PAGES["/file"] = function(request)
  request:respond { file = { path = request.query.path } }
end

-- No descriptor beyond those that are open may be had.
PAGES["/close_the_books"] = function(request)
  local limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  local free = unistd.dup(0) -- the lowest that is free; more of those may lie below the highest that is taken
  repeat
    limit.rlim_cur = free + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    free = unistd.dup(0)
  until not free
  request:respond { body = "closed" }
end

local function handler(request)
  local page = PAGES[request.path]
  if page then return page(request) end
  request:respond { body = "here" }
end

-- What a process may open at most, and so a client and its server may have of connections.
local function most_of(wanted)
  local limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limit.rlim_max < 0 or limit.rlim_max >= wanted + 500 then
    limit.rlim_cur = limit.rlim_cur < 0 and limit.rlim_cur or math.max(limit.rlim_cur, wanted + 500)
  else
    limit.rlim_cur = limit.rlim_max
  end
  resource.setrlimit(resource.RLIMIT_NOFILE, limit)
  return limit.rlim_cur < 0 and wanted or math.max(40, math.min(wanted, limit.rlim_cur - 300))
end

describe("a server of a crowd", function()
  local server, clients, files = nil, {}, nil
  local crowd = tonumber(os.getenv "CROWD" or "") or 200

  setup(function()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = most_of(crowd)
  end)

  teardown(function() resource.setrlimit(resource.RLIMIT_NOFILE, files) end)

  local function close_clients()
    while clients[1] do table.remove(clients):close() end
  end

  after_each(function()
    close_clients()
    server:stop()
  end)

  local function start(limits)
    server = child.start { limits = limits, drain = 0.1, run = { handler = handler } }
  end

  local function connect()
    clients[#clients + 1] = tcp.connect(server.port)
    return clients[#clients]
  end

  local function limits_with(connections)
    local limits = { connections = connections }
    for name, value in pairs(PATIENT) do limits[name] = value end
    return limits
  end

  local function is_served(client)
    local answer = (client or connect()):ask(ASK)
    return answer ~= nil and answer.status == 200
  end

  -- Until it is let in: the place of one whose end the client has seen is free a little later.
  local function hold(count)
    for _ = 1, count do
      local deadline, client = httpd.now() + 60
      repeat
        assert(httpd.now() < deadline, "nobody is let in")
        client = connect()
        client:send "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"
        repeat local more = client:fill() until not more or client.buffer:find("begun", 1, true)
      until client.buffer:find("begun", 1, true)
    end
  end

  local KINDS = {
    ["that have asked before"] = function(client) assert.is_true(is_served(client)) end,
    ["that never say a byte"] = function() end,
    ["that begin to ask and go on for ever"] = function(client) client:send "GET / HTTP/1.1\r\nHost: " end,
  }

  for kind, begin in pairs(KINDS) do
    it("lets newcomers in beside connections " .. kind .. ", the oldest of which go", function()
      local room = crowd // 2
      start(limits_with(room))
      local silent = {}
      for i = 1, crowd do
        silent[i] = connect()
        begin(silent[i])
        if i % 20 == 0 then assert.is_true(is_served()) end
      end
      assert.is_true(is_served())
      for i = 1, crowd // 4 do assert.is_true(silent[i]:is_closed(), ("%d of %d"):format(i, crowd)) end
      -- As many as there is room for have not been ended; besides them were those who asked.
      local kept = 0
      for i = crowd // 4 + 1, crowd do kept = kept + (silent[i]:is_closed(0) and 0 or 1) end
      assert.is_true(kept <= room and kept >= room - crowd // 20 - 2, ("%d of %d"):format(kept, room))
      if kind:find "begin" then assert.matches("^HTTP/1%.1 408 .*\"timeout\"", silent[1].buffer) end
      local n = server:usage()
      assert.is_true(n <= room + room // 4 + 60, ("%d descriptors"):format(n))
      server:logs "warn: full: "
    end)
  end

  it("has no more than there is room for where many come at one moment", function()
    start(limits_with(20))
    server:kill(signal.SIGSTOP)
    for _ = 1, 60 do connect() end
    server:kill(signal.SIGCONT)
    assert.is_true(is_served())
    local kept = 0
    for i = 1, 60 do kept = kept + (clients[i]:is_closed(0) and 0 or 1) end
    assert.equal(19, kept)
  end)

  it("keeps them all where there is room, and answers others", function()
    start(limits_with(crowd + 50))
    local silent = {}
    for i = 1, crowd do
      silent[i] = connect()
      KINDS[i % 2 == 0 and "that have asked before" or "that begin to ask and go on for ever"](silent[i])
    end
    local asks
    for i = 1, crowd do
      asks = i % 500 == 1 and connect() or asks -- each may ask 1,000 times
      if i % 2 == 1 then silent[i]:send "a" end
      assert.is_true(is_served(asks))
    end
    for i = 1, crowd do assert.is_false(silent[i]:is_closed(0)) end
    if os.getenv "CROWD" then print(crowd, "silent connections:", server:usage()) end
    for i = 1, crowd do
      silent[i]:send(i % 2 == 0 and ASK or "\r\n\r\n")
      assert.equal(200, silent[i]:response().status)
    end
  end)

  it("ends none at work, and says so to whom it turns away for that", function()
    start(limits_with(20))
    hold(19)
    local asks = connect()
    assert.is_true(is_served(asks))
    for _ = 1, 100 do -- the one that is silent goes for each
      assert.is_true(is_served())
    end
    assert.is_true(asks:is_closed())
    hold(1)
    for i = 1, 100 do
      local client = connect()
      if i % 2 == 0 then client:send(ASK) end
      local answer = assert(client:response())
      assert.same({ 503, "1", "close" }, { answer.status, answer.headers["retry-after"], answer.headers.connection })
      assert.equal("busy", json.decode(answer.body).code)
      assert.is_true(client:is_closed())
      table.remove(clients):close()
    end
    server:logs "turned away"
    table.remove(clients, 1):close() -- a stream that loses its reader makes room
    local deadline = httpd.now() + 60
    repeat
      local client = connect()
      local answer = client:ask "GET /end HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_true(httpd.now() < deadline)
    until answer and answer.body == "ended"
    assert.is_true(is_served())
  end)

  -- As far as libmicrohttpd sends files, beyond that, and where all fits into the sockets.
  for name, size in pairs { long = 10 << 20, ["very long"] = 65 << 20, short = 20000 } do
    it("ends slow readers of a " .. name .. " file once somebody is turned away, and no stream", function()
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:seek("set", size - 1)
      file:write "x"
      file:close()
      start { connections = 4, header_seconds = 4, idle_seconds = 600, stall_seconds = 600, response_seconds = 600 }
      hold(1)
      for _ = 1, 3 do
        local slow = tcp.connect(server.port, 2048)
        clients[#clients + 1] = slow
        slow:send(("GET /file?path=%s HTTP/1.1\r\nHost: a\r\n\r\n"):format(path))
        assert.is_true(slow:fill())
      end
      local deadline, answer = httpd.now() + 60
      repeat
        assert.is_true(httpd.now() < deadline)
        local client = connect()
        answer = client:ask(ASK)
        table.remove(clients):close()
      until answer and answer.status == 200
      server:logs "complete: GET /file 200 "
      assert.is_false(clients[1]:is_closed(0))
      assert.matches("complete: GET /file 200 %d+ false", server:log())
      os.remove(path)
    end)
  end

  it("ends slow senders of bodies once somebody is turned away", function()
    start { connections = 3, header_seconds = 4, body_seconds = 600 }
    local slow = {}
    for i = 1, 3 do
      slow[i] = connect()
      slow[i]:send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
      assert.equal(100, slow[i]:response().status) -- its header is read
    end
    local deadline, answer = httpd.now() + 60
    repeat
      assert.is_true(httpd.now() < deadline)
      answer = connect():ask(ASK)
      table.remove(clients):close()
    until answer and answer.status == 200
    local ended = 0
    for i = 1, 3 do
      if slow[i]:is_closed(0) then
        ended = ended + 1
        assert.equal(408, slow[i]:response().status)
      end
    end
    assert.is_true(ended > 0)
  end)

  describe("that may open no more files", function()
    it("lets newcomers in for silent ones", function()
      start(limits_with(1000))
      for _ = 1, 10 do assert.is_true(is_served()) end
      assert.equal("closed", connect():ask("GET /close_the_books HTTP/1.1\r\nHost: a\r\n\r\n").body)
      for _ = 1, 100 do assert.is_true(is_served()) end
    end)

    it("lets the first in once it can, and until then says why not", function()
      start(limits_with(1000))
      assert.equal("closed", connect():ask("GET /close_the_books HTTP/1.1\r\nHost: a\r\n\r\n").body)
      close_clients()
      local deadline = httpd.now() + 60
      repeat
        assert.is_true(httpd.now() < deadline)
        local answer = connect():ask(ASK)
      until answer and answer.status == 200
    end)

    it("turns newcomers away while all are at work", function()
      start(limits_with(1000))
      hold(10)
      local asks = connect()
      asks:send "GET /close_the_books HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
      assert.equal("closed", asks:response().body)
      assert.is_true(asks:is_closed())
      hold(1) -- in its place
      local others = #clients
      for _ = 1, 100 do
        local answer = connect():response() -- without a word: what it sent unread would cut the answer off
        assert.same({ 503, "1" }, { answer.status, answer.headers["retry-after"] })
      end
      for _ = 1, others do table.remove(clients, 1):close() end
      local deadline = httpd.now() + 60
      repeat
        assert.is_true(httpd.now() < deadline)
        local answer = connect():ask(ASK)
      until answer and answer.status == 200
    end)
  end)
end)
