local api = require "spec.support.api"
local json = require "atelier.json"
local time = require "posix.time"

local service, token

local function start(options)
  service = api.start(options)
  token = service:token(service.pro.user)
end

local function query(sql, params)
  return assert(service.conn:query(sql, params))
end

-- ==== a reader of events ====

local Stream = {}
Stream.__index = Stream

local function open(options)
  options = options or {}
  local client = options.client or service:connect()
  client:send(("GET /api/ate/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"):format(options.token or token,
    options.headers or ""))
  local status = tonumber(client:line():match "^HTTP/1%.1 (%d+)")
  local headers = {}
  for line in function() return client:line() end do
    if line == "" then break end
    local name, value = line:match "^([^:]+): (.*)$"
    headers[name:lower()] = value
  end
  return setmetatable({ client = client, status = status, headers = headers, text = "" }, Stream)
end

-- The next chunk into the text; false at the end of the stream, nil when it was cut.
function Stream:chunk()
  local deadline = os.time() + 60
  while not self.client.buffer:find("\r\n", 1, true) do
    assert(os.time() < deadline, "nothing came")
    if self.client:fill(60) == nil then return nil end
  end
  local size = tonumber(self.client:line(), 16)
  while #self.client.buffer < size + 2 do
    assert(os.time() < deadline, "nothing came")
    if self.client:fill(60) == nil then return nil end
  end
  self.text = self.text .. self.client:take(size)
  self.client:take(2)
  return size > 0
end

-- The next event: {name, id, job}; comments and retry are passed over.
function Stream:next()
  while true do
    local block, rest = self.text:match "^(.-)\n\n(.*)$"
    if block then
      self.text = rest
      local event = {}
      for line in block:gmatch "[^\n]+" do
        local name, value = line:match "^(%a+): (.*)$"
        if name then event[name] = value end
        if line:sub(1, 1) == ":" then self.comment = line end
      end
      if event.data then
        event.job = assert(json.decode(event.data))
        return event
      end
    else
      local went = self:chunk()
      if not went then return went end
    end
  end
end

-- Reads on until a job is as wanted.
function Stream:await(wanted)
  while true do
    local event = self:next()
    assert(event, "the stream ended")
    local fits = true
    for name, value in pairs(wanted) do
      fits = fits and event.job[name] == value
    end
    if fits then return event end
  end
end

function Stream:close()
  self.client:close()
end

local function claim(customer)
  return query("select c.queue_id::text as id, c.attempt from claim_ate_generations('spec', 10) c where c.device_id = $1::uuid",
    { customer.device })[1]
end

local function report(job, stage)
  query("select report_ate_generations(jsonb_build_array(jsonb_build_object('queue_id', $1::text, 'attempt', $2::int, 'stage', $3::text)))",
    { job.id, job.attempt, stage })
end

-- Opens streams until one is refused, or there are so many; gives those that are open and the last one's status.
local function open_many(most)
  local streams = {}
  while #streams < most do
    local stream = open()
    if stream.status ~= 200 then
      stream:close()
      return streams, stream
    end
    streams[#streams + 1] = stream
  end
  return streams
end

local function close_all(streams)
  for _, stream in ipairs(streams) do stream:close() end
end

-- Until a number of streams can be opened, since former ones are gone.
local function await_room(count)
  local deadline = os.time() + 60
  while true do
    local streams = open_many(count)
    close_all(streams)
    if #streams == count then return end
    assert(os.time() < deadline, "there never was room")
    time.nanosleep { tv_sec = 0, tv_nsec = 20000000 }
  end
end

describe("the stream of events", function()
  before_each(function() start() end)
  after_each(function() service:stop() end)

  it("begins with the present state", function()
    local stream = open()
    assert.equal(200, stream.status)
    assert.equal("text/event-stream", stream.headers["content-type"])
    assert.equal("no-store", stream.headers["cache-control"])
    local event = stream:next()
    assert.equal("job", event.event)
    local job = event.job
    assert.equal("queued", job.state)
    assert.equal("DEV-PRO", job.device_hash)
    assert.equal("smartgram", job.template)
    assert.equal(json.null, job.ate_file_id)
    assert.equal(json.null, job.stage)
    assert.equal(json.null, job.error)
    assert.equal(0, job.attempt)
    assert.is_true(job.position >= 1)
    assert.matches("^%x+%-%x+%-%x+%-%x+%-%x+$", job.queue_id)
    assert.matches("^%d+%-%d+%-%d+T", job.queued_at)
    assert.matches("^%d+%-%d+%-%d+T", job.updated_at)
    local names = 0
    for _ in pairs(job) do names = names + 1 end
    assert.equal(11, names)
    stream:close()
  end)

  it("tells each stage, and the file at the end", function()
    local stream = open()
    stream:await { state = "queued" }
    local job = claim(service.pro)
    assert.equal(job.id, stream:await({ state = "processing", attempt = 1 }).job.queue_id)
    for _, stage in ipairs { "rendering", "checking", "sealing", "storing" } do
      report(job, stage)
      stream:await { state = "processing", stage = stage }
    end
    query("select complete_ate_generation($1::uuid, 'generated/x.ate', 10, $2, $2)", { job.id, ("ab"):rep(32) })
    local last = stream:await { state = "completed" }.job
    assert.equal(json.null, last.stage)
    assert.equal(query("select id::text from ate_files where device_id = $1::uuid", { service.pro.device })[1].id, last.ate_file_id)
    stream:close()
  end)

  it("tells a failure with its reason, and a cancellation", function()
    local stream = open()
    stream:await { state = "queued" }
    local job = claim(service.pro)
    query("select fail_ate_generation($1::uuid, 'check: main.lua:3: went wrong', 1, true)", { job.id })
    assert.same({ code = "check", message = "check: main.lua:3: went wrong" }, stream:await({ state = "failed" }).job.error)
    query("select queue_ate_generation('DEV-PRO')")
    local queued = stream:await { state = "queued" }.job
    query("select cancel_ate_generation($1::uuid, 'no longer wanted')", { queued.queue_id })
    assert.equal("cancelled", stream:await({ state = "failed" }).job.error.code)
    stream:close()
  end)

  it("has nothing of other people's", function()
    local stream = open()
    assert.equal("DEV-PRO", stream:next().job.device_hash)
    query("select * from claim_ate_generations('spec', 10)")
    query([[select fail_ate_generation(q.id, 'x: y', 1, true) from file_generation_queue q where device_id <> $1::uuid]],
      { service.pro.device })
    for _, state in ipairs { "processing", "failed" } do
      if state == "failed" then
        query("select fail_ate_generation(q.id, 'x: y', 1, true) from file_generation_queue q where q.status = 'processing'")
      end
      local event
      repeat
        event = stream:next()
        assert.equal("DEV-PRO", event.job.device_hash)
      until event.job.state == state
    end
    stream:close()
  end)

  it("begins with the present state again when it is taken up again", function()
    local stream = open()
    local id = stream:next().id
    stream:close()
    for _, last in ipairs { id, "9999-01-01T00:00:00Z", "junk" } do
      stream = open { headers = "Last-Event-ID: " .. last .. "\r\n" }
      assert.equal("queued", stream:next().job.state)
      stream:close()
    end
  end)

  it("begins empty for who has no jobs", function()
    local stream = open { token = service:token "b0000000-0000-4000-8000-000000000001" }
    assert.equal(200, stream.status)
    assert.is_true(stream:chunk())
    assert.equal("retry: 2000\n\n", stream.text)
    stream:close()
  end)

  it("follows other requests on a connection", function()
    local client = service:connect()
    assert.equal(200, client:ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status)
    local stream = open { client = client }
    assert.equal("queued", stream:next().job.state)
    stream:close()
  end)

  it("tells when others' jobs move one's own place", function()
    query("update file_generation_queue q set priority = 10 where device_id = $1::uuid", { service.pro.device })
    local stream = open()
    assert.equal(3, stream:next().job.position)
    query("select cancel_ate_generation(q.id) from file_generation_queue q where device_id = $1::uuid", { service.max.device })
    stream:await { position = 2 }
    stream:close()
  end)

  it("is for users with a good token in the header", function()
    assert.equal(401, service:get("/api/ate/events").status)
    assert.equal(400, service:get("/api/ate/events?token=" .. token, { token = token }).status)
    assert.equal(401, service:get("/api/ate/events?access_token=" .. token).status)
    assert.equal(403, service:get("/api/ate/events", { token = service:operator() }).status)
    assert.equal(405, service:post("/api/ate/events", {}, { token = token }).status)
    local head = service:request("HEAD", "/api/ate/events", { token = token })
    assert.equal(200, head.status)
    assert.equal("", head.body)
  end)

  it("ends with the token's time", function()
    -- With the leeway of 30 s it is good for some seconds: for as many as this machine takes to come to the stream.
    local stream
    local life = 3
    while true do
      stream = open { token = service:token(service.pro.user, { exp = os.time() - 30 + life }) }
      if stream.status ~= 401 or life > 60 then break end
      life = 3 * life
      stream:close()
    end
    assert.equal(200, stream.status)
    assert.truthy(stream:next())
    local event
    repeat event = stream:next() until not event
    assert.is_false(event)
    assert.equal(": the token is no longer good", stream.comment)
    stream:close()
  end)

  it("is there eight times for a user, and as often again when those are gone", function()
    local streams, refused = open_many(9)
    assert.equal(8, #streams)
    assert.equal(429, refused.status)
    assert.truthy(refused.headers["retry-after"])
    local other = open { token = service:token(service.max.user) }
    assert.equal(200, other.status)
    other:close()
    close_all(streams)
    await_room(8)
  end)

  it("ends in order when the service does", function()
    local stream = open()
    assert.truthy(stream:next())
    service.child:kill()
    local event
    repeat event = stream:next() until not event
    assert.is_false(event)
    stream:close()
  end)
end)

describe("a stream on a bad day", function()
  after_each(function() service:stop() end)

  it("is there for half of the connections, whosever they are", function()
    start { config = { front_connections = 4 } }
    local streams, refused = open_many(5)
    assert.equal(2, #streams)
    assert.same({ 503, "5" }, { refused.status, refused.headers["retry-after"] })
    close_all(streams)
    await_room(2)
  end)

  it("goes on when connections to the database break", function()
    start()
    local stream = open()
    stream:await { state = "queued" }
    -- Only when it listens is there something to break.
    local deadline = os.time() + 60
    while query("select count(*) as n from pg_stat_activity where application_name like '% listener' and datname = current_database()")[1].n == 0 do
      assert(os.time() < deadline)
    end
    query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
    local job = claim(service.pro)
    stream:await { state = "processing" }
    query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
    query("select complete_ate_generation($1::uuid, 'generated/x.ate', 10, $2, $2)", { job.id, ("ab"):rep(32) })
    stream:await { state = "completed" }
    stream:close()
  end)

  it("looks for itself where nothing can be listened to", function()
    start { prepare = function(app) function app.db.listener() return nil, "no such thing", "connection" end end }
    local stream = open()
    stream:await { state = "queued" }
    claim(service.pro)
    stream:await { state = "processing" }
    stream:close()
  end)

  it("looks for itself where listening brings nothing, as behind a pooler", function()
    start { prepare = function(app)
      local pg = require "atelier.pg"
      function app.db.listener()
        return pg.connect((app.config.database_url:gsub("dbname=%S+", "dbname=postgres")), { yield = true })
      end
    end }
    local stream = open()
    stream:await { state = "queued" }
    claim(service.pro)
    stream:await { state = "processing" }
    stream:close()
  end)

  it("is not cut by a client that reads nothing, but for that client", function()
    start { limits = { stall_seconds = 15, stream_bytes = 65536 } } -- who reads may take as long to come to his stream
    local streams = open_many(7)
    local slow = open { client = require("spec.support.tcp").connect(service.port, 4096) }
    assert.equal(200, slow.status)
    assert.equal(429, open().status)
    local deadline = os.time() + 120
    local last
    local rounds = 0
    repeat
      assert(os.time() < deadline, "it is still there")
      rounds = rounds + 1
      -- By now the system has taken for the slow one what it takes.
      if rounds > 12 then time.nanosleep { tv_sec = 1, tv_nsec = 0 } end
      query([[update file_generation_queue set error_code = 'x', error_message = repeat('y', 1000000),
        updated_at = clock_timestamp() where device_id = $1::uuid]], { service.pro.device })
      query("select pg_notify('ate_jobs', json_build_object('ids', json_build_array(id))::text) from file_generation_queue where device_id = $1::uuid",
        { service.pro.device })
      for _, stream in ipairs(streams) do assert.truthy(stream:next()) end
      if last then last:close() end
      last = open()
    until last.status == 200
    last:close()
    slow:close()
    close_all(streams)
  end)
end)
