-- Live views of many users: told by the front that they are at, ended in order by a reload and by the end, taken up again.
-- STREAMS says how many: 40, or what the limit of open files allows; 1000 takes a minute.
local resource = require "posix.sys.resource"
local services = require "spec.daemon.support.service"
local tcp = require "spec.support.tcp"
local token = require "api.token"

local SECRET = "a secret of the streams' spec alone"

describe("live views of many", function()
  local service, files
  local many = tonumber(os.getenv "STREAMS" or "") or 40
  local streams = {}

  setup(function()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    local limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit.rlim_cur = limit.rlim_max
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    if limit.rlim_cur >= 0 then many = math.min(many, (limit.rlim_cur - 300) // 8) end
  end)

  teardown(function() resource.setrlimit(resource.RLIMIT_NOFILE, files) end)

  after_each(function()
    for i in pairs(streams) do streams[i]:close() end
    streams = {}
    services.close_all()
  end)

  local function open(customer, lines)
    local client = tcp.connect(service:port(), customer.is_deaf and 2048 or nil)
    client:send(("GET /api/ate/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n%s\r\n"):format(customer.token,
      lines or ""))
    return client
  end

  -- Reads until it is there.
  local function read(client, text)
    while not client.buffer:find(text, 1, true) do
      assert(client:fill(), "never came: " .. text .. " behind " .. client.buffer:sub(-500))
    end
  end

  it("see what happens, through a reload and a stop, beside some that never read", function()
    service = services.new { config = { jwt_secret = SECRET, front_connections = 2 * many + 100, workers = 1,
      drain_time = 60 } }
    service.world:customers(many)
    local customers = service.world:query [[select d.user_id::text as "user", d.device_hash as hash from devices d
      where d.device_hash like 'D%' order by d.device_hash]]
    service:start()
    for i, customer in ipairs(customers) do
      customer.token = token.user(SECRET, service.world.config, customer.user, 86400)
      customer.is_deaf = i % 10 == 0
      streams[i] = open(customer)
    end
    for i, customer in ipairs(customers) do
      if not customer.is_deaf then read(streams[i], '"state":"completed"') end
    end
    -- The deaf ones hold nobody up: each other stream is ended as a whole, and there again with its last state.
    local before = service:process "front 1"
    service:reload()
    service:await_another("front 1", before.pid)
    for i, customer in ipairs(customers) do
      if not customer.is_deaf then
        read(streams[i], "\r\n0\r\n\r\n")
        local last = streams[i].buffer:match ".*\nid: ([^\n]+)\n"
        streams[i]:close()
        streams[i] = open(customer, "Last-Event-ID: " .. last .. "\r\n")
      end
    end
    for i, customer in ipairs(customers) do
      if not customer.is_deaf then read(streams[i], '"state":"completed"') end
    end
    assert.equal(200, service:get("/healthz").status)
    service:stop()
    for i, customer in ipairs(customers) do
      if not customer.is_deaf then read(streams[i], "\r\n0\r\n\r\n") end
      assert.is_true(streams[i]:is_closed())
    end
  end)
end)
