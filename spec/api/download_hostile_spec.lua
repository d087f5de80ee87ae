local api = require "spec.support.api"
local crypto = require "atelier.crypto"
local http = require "atelier.http"
local json = require "atelier.json"
local log = require "log"
local pg = require "atelier.pg"
local signal = require "posix.signal"
local tcp = require "spec.support.tcp"
local time = require "posix.time"

local service, token, file, path, BYTES

local function lined(prepare)
  return function(app)
    local out = assert(io.open(app.config.state_dir .. "/log", "a"))
    out:setvbuf "line"
    log.configure { level = "info", out = out }
    if prepare then prepare(app) end
  end
end

local function start(size, options)
  options = options or {}
  options.prepare = lined(options.prepare)
  service = api.start(options)
  BYTES = crypto.random(size)
  file = service:file("pro", BYTES)
  path = "/api/ate/download/" .. file.id
  token = service:token(service.pro.user)
end

local function query(sql, params)
  return assert(service.conn:query(sql, params))
end

local function await(what, holds)
  local deadline = os.time() + 60
  local value = holds()
  while not value do
    assert(os.time() < deadline, "never: " .. what .. "\n" .. service:log() .. service.child:log())
    time.nanosleep { tv_sec = 0, tv_nsec = 10000000 }
    value = holds()
  end
  return value
end

local function history(count)
  return await(count .. " rows of history", function()
    local rows = query([[select status, bytes_downloaded as bytes, reached_end, reason, host(download_ip) as ip
      from download_history order by created_at, id]])
    return #rows >= count and rows
  end)
end

local function downloads()
  return query("select download_count as n from ate_files where id = $1::uuid", { file.id })[1].n
end

local function request(lines)
  return ("GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"):format(path, token, lines or "")
end

-- Begins a download and takes its head and so many bytes of its body.
local function begin(bytes, window, lines)
  local client = tcp.connect(service.port, window or 65536)
  client:send(request(lines))
  local head = client:line()
  repeat until client:line() == ""
  assert.matches(lines and "206" or "200", head)
  return client, client:take(bytes)
end

local function finish(client, part, size)
  local all = { part, client:take(size - #part) }
  client:close()
  return table.concat(all)
end

-- The rest of several, in turn: the server gives a client up that takes nothing for 30 s.
local function finish_all(clients, parts)
  local all = {}
  for i, part in ipairs(parts) do
    all[i] = { part }
  end
  for at = #parts[1], #BYTES - 1, 1000000 do
    for i, client in ipairs(clients) do
      table.insert(all[i], (assert(client:take(math.min(1000000, #BYTES - at)))))
    end
  end
  for i, client in ipairs(clients) do
    client:close()
    assert.is_true(BYTES == table.concat(all[i]))
  end
end

describe("downloads at once", function()
  local second

  -- It holds pipes of ours: left alone it would keep this process from its end.
  after_each(function()
    if second then second:stop() end
    second = nil
    service:stop()
  end)

  it("count right, a hundred of them over two fronts", function()
    start(300000)
    second = service:run {}
    await("the second front", function()
      local answer = http.request { url = ("http://127.0.0.1:%d/readyz"):format(second.port) }
      return answer and answer.status == 200
    end)
    local clients = {}
    for i = 1, 100 do
      clients[i] = tcp.connect(i % 2 == 0 and service.port or second.port)
      -- Every fourth takes the first half alone.
      clients[i]:send(request(i % 4 == 0 and "Range: bytes=0-149999\r\n" or nil))
    end
    for i = 1, 100 do
      local answer = clients[i]:response()
      assert.equal(i % 4 == 0 and 206 or 200, answer.status)
      assert.is_true(answer.body == (i % 4 == 0 and BYTES:sub(1, 150000) or BYTES))
      clients[i]:close()
    end
    local rows = history(100)
    assert.equal(100, #rows)
    local sum = 0
    for _, row in ipairs(rows) do
      assert.equal("completed", row.status)
      sum = sum + row.bytes
    end
    assert.equal(75 * 300000 + 25 * 150000, sum)
    assert.equal(75, downloads())
  end)

  it("count right when the same device's file is built anew all the while", function()
    start(50000)
    local answers = 0
    for i = 1, 10 do
      local clients = {}
      for k = 1, 5 do
        clients[k] = service:connect()
        clients[k]:send(request())
      end
      BYTES = BYTES .. service:file("pro", crypto.random(50000 + i)).checksum
      for k = 1, 5 do
        local answer = clients[k]:response()
        assert.equal(200, answer.status)
        -- Whichever it was, it is one file and its own checksum.
        assert.equal('"' .. crypto.hex(crypto.sha256(answer.body)) .. '"', answer.headers.etag)
        answers = answers + 1
        clients[k]:close()
      end
    end
    history(answers)
    assert.equal(answers, downloads())
  end)
end)

describe("a download that is cut", function()
  after_each(function() service:stop() end)

  for _, size in ipairs { 2000000, 30000000 } do
    it(("has failed, with the bytes that left; the rest makes it a download (%d)"):format(size), function()
      start(size)
      local client, part = begin(100000)
      assert.equal(100000, #part)
      client:reset()
      local row = history(1)[1]
      assert.equal("failed", row.status)
      assert.is_false(row.reached_end)
      assert.is_true(row.bytes >= 100000 and row.bytes < size, tostring(row.bytes))
      assert.equal(0, downloads())
      local rest = service:get(path, { token = token, headers = { Range = "bytes=100000-", ["If-Range"] = '"' .. file.checksum .. '"' } })
      assert.equal(206, rest.status)
      assert.is_true(BYTES == part .. rest.body)
      assert.equal("completed", history(2)[2].status)
      assert.equal(1, downloads())
    end)
  end

  it("has failed when the file became shorter under it", function()
    start(30000000)
    local client, part = begin(1000)
    local out = assert(io.open(service.config.storage_dir .. "/" .. file.file_path, "r+b"))
    assert(os.execute(("truncate -s 2000000 %s/%s"):format(service.config.storage_dir, file.file_path)))
    out:close()
    local _, rest = client:take(40000000)
    assert.is_true(#part + #rest < 30000000)
    client:close()
    local row = history(1)[1]
    assert.equal("failed", row.status)
    assert.is_true(row.bytes < 30000000)
    assert.equal(0, downloads())
  end)

  it("is the old file to its end when a new one takes its place, and when its object goes", function()
    start(20000000)
    local client, part = begin(1000)
    service:file("pro", "a new one, which is shorter")
    assert(os.remove(service.config.storage_dir .. "/" .. file.file_path))
    assert.is_true(BYTES == finish(client, part, #BYTES))
    assert.equal("completed", history(1)[1].status)
    assert.equal(1, downloads())
    assert.equal("a new one, which is shorter", service:get(path, { token = token }).body)
  end)

  it("ends well when the service is told to end", function()
    start(20000000, { drain = 60 })
    local client, part = begin(1000)
    service.child:kill(signal.SIGTERM)
    assert.is_true(BYTES == finish(client, part, #BYTES))
    assert.equal("completed", history(1)[1].status)
    assert.equal(1, downloads())
  end)
end)

describe("downloads that are not written down yet", function()
  after_each(function() service:stop() end)

  it("are, before a front ends that was told to", function()
    start(1000, { drain = 60 })
    local clients = {}
    for i = 1, 40 do
      clients[i] = service:connect()
      clients[i]:send(request())
    end
    for i = 1, 40 do
      assert.is_true(clients[i]:response().body == BYTES)
    end
    service.child:kill(signal.SIGTERM) -- most rows wait for the next batch now
    assert.equal(40, #history(40))
    assert.equal(40, downloads())
    for i = 1, 40 do clients[i]:close() end
  end)
end)

describe("a download without the database", function()
  after_each(function() service:stop() end)

  local admin, name

  local function lose_database()
    name = query("select current_database()::text as name")[1].name
    admin = assert(pg.connect((service.url:gsub("dbname=%S+", "dbname=postgres"))))
    assert(admin:query(('alter database "%s" allow_connections false'):format(name)))
    query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
  end

  local function find_database()
    assert(admin:query(('alter database "%s" allow_connections true'):format(name)))
    admin:close()
  end

  it("goes on, and is written down once when the database is back", function()
    start(20000000)
    local clients, parts = {}, {}
    for i = 1, 5 do
      clients[i], parts[i] = begin(1000)
    end
    lose_database()
    finish_all(clients, parts)
    await("the wait", function() return service:log():find("downloads wait to be recorded", 1, true) end)
    local refused = service:get(path, { token = token })
    assert.equal(503, refused.status)
    assert.truthy(refused.headers["retry-after"])
    assert.equal(0, #history(0))
    find_database()
    assert.equal(5, #history(5))
    assert.equal(5, downloads())
    service:wait()
    assert.equal(200, service:get(path, { token = token }).status)
    assert.equal(6, #history(6))
  end)

  it("is in the log when it cannot be kept", function()
    -- The last one's turn to be read may come late.
    start(20000000, { limits = { stall_seconds = 600 }, prepare = function(app)
      app.downloads = require("api.download_log").new(app.db, 2)
      app.store = assert(require("storage").open(app.config))
    end })
    local clients, parts = {}, {}
    for i = 1, 4 do
      clients[i], parts[i] = begin(1000)
    end
    lose_database()
    finish_all(clients, parts)
    await("two losses in the log", function()
      local _, count = service:log():gsub("a download was not recorded", "")
      return count == 2
    end)
    local line = service:log():match "[^\n]*a download was not recorded[^\n]*"
    for _, word in ipairs { file.id, service.pro.user, "bytes=20000000", "status=completed", "127.0.0.1" } do
      assert.truthy(line:find(word, 1, true), word .. " in " .. line)
    end
    find_database()
    assert.equal(2, #history(2))
    assert.equal(2, downloads())
  end)
end)

describe("the address of a download", function()
  after_each(function() service:stop() end)

  local function address(forwarded)
    local before = #history(0)
    service:get(path, { token = token, headers = { ["X-Forwarded-For"] = forwarded } })
    return history(before + 1)[before + 1].ip
  end

  it("is the peer's, whatever it says of itself", function()
    start(10)
    for _, text in ipairs { "203.0.113.7", "junk", "127.0.0.1, 203.0.113.7" } do
      assert.equal("127.0.0.1", address(text))
    end
  end)

  it("is the client's, as trusted proxies tell", function()
    start(10, { config = { trusted_proxies = { "127.0.0.0/8", "10.0.0.0/8" } } })
    assert.equal("203.0.113.7", address "203.0.113.7")
    assert.equal("203.0.113.7", address "198.51.100.1, 203.0.113.7, 10.1.2.3")
    assert.equal("2001:db8::7", address "2001:db8::7")
    -- Whatever cannot be read is no address; the row is there all the same.
    for _, text in ipairs { "junk", "1.2.3.4.5", "fe80::1%eth0", "'; drop table", "203.0.113.7:8080", ("9"):rep(3000) } do
      assert.is_not_nil(address(text), text)
    end
  end)
end)

describe("a download from a remote store", function()
  local server, url
  local KEY <const> = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"

  setup(function()
    server = assert(io.popen("exec env -u LD_PRELOAD node spec/support/supabase_storage.mjs " .. KEY))
    url = "http://127.0.0.1:" .. server:read "l"
  end)
  teardown(function()
    http.request { url = url .. "/end", timeout = 5 }
    server:close()
  end)
  after_each(function() service:stop() end)

  local function remote(size, changes)
    local config = { storage = "supabase", supabase_url = url, supabase_service_role_key = KEY, supabase_bucket = "ate-files" }
    for key, value in pairs(changes or {}) do config[key] = value end
    start(size, { config = config })
  end

  it("is the same", function()
    remote(3000000)
    local answer = service:get(path, { token = token })
    assert.equal(200, answer.status)
    assert.is_true(BYTES == answer.body)
    assert.equal('"' .. file.checksum .. '"', answer.headers.etag)
    history(1) -- a client can have all of the next one before the server knows that it had all of this
    local part = service:get(path, { token = token, headers = { Range = "bytes=1000000-2500000" } })
    assert.equal(206, part.status)
    assert.equal("bytes 1000000-2500000/3000000", part.headers["content-range"])
    assert.is_true(BYTES:sub(1000001, 2500001) == part.body)
    local head = service:request("HEAD", path, { token = token })
    assert.equal(200, head.status)
    assert.equal("", head.body)
    for _, name in ipairs { "etag", "content-length", "content-type", "accept-ranges", "repr-digest", "content-disposition" } do
      assert.equal(answer.headers[name], head.headers[name], name)
    end
    assert.equal("3000000", head.headers["content-length"])
    assert.is_nil(answer.headers["transfer-encoding"])
    local rows = history(2)
    assert.same({ "completed", 3000000, true }, { rows[1].status, rows[1].bytes, rows[1].reached_end })
    assert.same({ "completed", 1500001, false }, { rows[2].status, rows[2].bytes, rows[2].reached_end })
    assert.equal(1, downloads())
  end)

  it("has its ranges and conditions", function()
    remote(100000)
    local etag = '"' .. file.checksum .. '"'
    local function get(headers)
      local answer = service:get(path, { token = token, headers = headers })
      return answer.status, answer.body, answer.headers["content-range"], answer.headers["content-length"]
    end
    assert.same({ 206, BYTES:sub(-500), "bytes 99500-99999/100000", "500" }, { get { Range = "bytes=-500" } })
    assert.same({ 206, BYTES:sub(99001), "bytes 99000-99999/100000", "1000" }, { get { Range = "bytes=99000-" } })
    assert.same({ 206, BYTES:sub(1, 1), "bytes 0-0/100000", "1" },
      { get { Range = "bytes=0-0", ["If-Range"] = etag } })
    for _, condition in ipairs { '"another"', "W/" .. etag, "Sun, 01 Jan 2023 00:00:00 GMT" } do
      local status, body, range, length = get { Range = "bytes=0-0", ["If-Range"] = condition }
      assert.same({ 200, true, nil, "100000" }, { status, body == BYTES, range, length })
    end
    local status, _, range = get { Range = "bytes=100000-" }
    assert.same({ 416, "bytes */100000" }, { status, range })
    assert.equal(304, (get { ["If-None-Match"] = '"another", ' .. etag }))
    assert.equal(412, (get { ["If-Match"] = '"another"' }))
  end)

  it("is cut when the store fails in the middle, and refused when it fails before", function()
    remote(20000000)
    local client, part = begin(1000, 4096)
    http.request { method = "POST", url = url .. "/drop-buckets" }
    local rest, left = client:take(#BYTES - #part)
    if not rest then -- what was asked for already still came
      client:close()
      assert.is_true(#part + #left < #BYTES)
      local row = history(1)[1]
      assert.equal("failed", row.status)
      assert.is_false(row.reached_end)
      assert.equal(0, downloads())
    end
    assert.equal(503, service:get(path, { token = token }).status)
  end)

  it("hands the patience that the store asks for on to the client, until the answer has begun", function()
    local function ask_for_patience(seconds, after)
      http.request { method = "POST", url = url .. "/fault", body =
        ('{"times":1,"method":"GET","after":%d,"status":429,"headers":{"retry-after":"%d"}}'):format(after, seconds) }
      return service:get(path, { token = token })
    end
    for after, seconds in pairs { [0] = 7, [1] = 8 } do -- the look at the object, then its first piece
      remote(3000000)
      local answer = ask_for_patience(seconds, after)
      assert.same({ 503, "storage_unavailable", tostring(seconds) },
        { answer.status, answer.json.code, answer.headers["retry-after"] })
      service:stop()
    end
    remote(3000000)
    assert.is_true(BYTES == ask_for_patience(3, 2).body)
  end)

  it("does not ask the store again before the time that it has asked for is over", function()
    remote(1000)
    http.request { method = "POST", url = url .. "/fault",
      body = '{"times":1,"method":"GET","status":429,"headers":{"retry-after":"250"}}' }
    assert.equal("250", service:get(path, { token = token }).headers["retry-after"])
    http.request { method = "POST", url = url .. "/seen" }
    for _ = 1, 3 do
      local answer = service:get(path, { token = token })
      assert.same({ 503, "storage_unavailable" }, { answer.status, answer.json.code })
      local seconds = tonumber(answer.headers["retry-after"])
      assert.is_true(seconds > 100 and seconds <= 250, answer.headers["retry-after"])
    end
    assert.same({}, json.decode(http.request({ method = "POST", url = url .. "/seen" }).body).seen)
  end)

  it("is not refused for what befalls another file, be it asked for again and again", function()
    remote(1000)
    local other = service:file("starter", "another")
    local theirs = service:token(service.starter.user)
    http.request { method = "POST", url = url .. "/fault", body =
      ('{"times":1000,"path":"%s","status":503,"headers":{"retry-after":"60"}}'):format(file.file_path) }
    for _ = 1, 3 do
      assert.equal(503, service:get(path, { token = token }).status)
      assert.equal("another", service:get("/api/ate/download/" .. other.id, { token = theirs }).body)
    end
    http.request { method = "POST", url = url .. "/calm" }
  end)

  -- What a store may do to an object without telling: another byte, the same size, hash and tag.
  local function rot(at)
    assert.equal(200, http.request { method = "POST", url = url .. "/rot",
      body = ('{"name":"%s","at":%d}'):format(file.file_path, at) }.status)
  end

  local function jobs()
    return query("select count(*)::int as n from file_generation_queue where status = 'queued'")[1].n
  end

  for _, case in ipairs { { "its first piece", 3500000, 17 }, { "its middle", 3500000, 2000000 },
    { "its last byte", 3500000, 3499999 }, { "the last byte of its last whole piece", 3 << 20, (3 << 20) - 1 } } do
    it("is cut before its end when the store has another byte in " .. case[1], function()
      remote(case[2])
      query "delete from file_generation_queue"
      rot(case[3])
      local client, part = begin(1000)
      local rest, left = client:take(#BYTES - #part)
      assert.is_nil(rest)
      assert.is_true(#part + #left < #BYTES)
      client:close()
      local row = history(1)[1]
      assert.same({ "failed", false, "object_damaged" }, { row.status, row.reached_end, row.reason })
      assert.is_true(row.bytes < #BYTES)
      assert.equal(0, downloads())
      assert.equal(1, jobs())
      assert.matches(('an object is damaged.-%s.-store="?supabase'):format(file.id:gsub("%p", "%%%0")), service:log())
      -- Nothing more of it is given, not even what a client may ask for to go on.
      for _, range in ipairs { "bytes=0-", ("bytes=%d-"):format(#part + #left), "bytes=0-9" } do
        local answer = service:get(path, { token = token, headers = { Range = range } })
        assert.same({ 202, "object_missing" }, { answer.status, answer.json.reason })
      end
      assert.equal(1, jobs())
      assert.equal(1, #history(1))
    end)
  end

  it("is not begun where it is short enough to be known as damaged, and is queued", function()
    remote(100000)
    query "delete from file_generation_queue"
    rot(99999)
    local answer = service:get(path, { token = token })
    assert.same({ 202, "object_missing" }, { answer.status, answer.json.reason })
    assert.equal(1, jobs())
    assert.equal(0, #history(0))
    local metrics = service:get "/metrics"
    assert.matches('atelier_objects_damaged_total{[^}]*store="supabase"[^}]*} 1', metrics.body)
    -- The next one is served: it has another key.
    BYTES = crypto.random(100000)
    local store <close> = assert(require "storage".open(service.config))
    local key = file.file_path:gsub("_[^_]*$", "_next.ate")
    assert(store:wait((assert(store:put(key, { BYTES }, {})))))
    query("update ate_files set file_path = $2, checksum = $3 where id = $1::uuid",
      { file.id, key, crypto.hex(crypto.sha256(BYTES)) })
    assert.is_true(BYTES == service:get(path, { token = token }).body)
  end)

  -- Another byte on the way, for so many answers: `at` of each.
  local function flip(...)
    for _, at in ipairs { ... } do
      assert.equal(200, http.request { method = "POST", url = url .. "/fault", body =
        ('{"times":1,"method":"GET","path":"/object/ate-files/","flip":%d}'):format(at) }.status)
    end
    query "delete from file_generation_queue"
  end

  it("is whole where a byte was changed on the way, and is there at a second look", function()
    remote(100000)
    flip(4711)
    assert.is_true(BYTES == service:get(path, { token = token }).body)
    assert.equal("completed", history(1)[1].status)
    assert.equal(0, jobs())
  end)

  it("is cut where bytes that were sent had been changed on the way, and nothing is held against the object", function()
    remote(3500000)
    flip(17)
    local client, part = begin(1000)
    local rest, left = client:take(#BYTES - #part)
    assert.is_nil(rest)
    assert.is_true(#part + #left < #BYTES)
    client:close()
    local row = history(1)[1]
    assert.same({ "failed", false }, { row.status, row.reached_end })
    assert.not_equal("object_damaged", row.reason)
    await("what is the matter", function() return service:log():find("its bytes changed on the way", 1, true) end)
    assert.is_true(BYTES == service:get(path, { token = token }).body)
    assert.equal(0, jobs())
  end)

  it("is refused for now where no two looks see the same bytes", function()
    remote(100000)
    flip(1, 2)
    local answer = service:get(path, { token = token })
    assert.same({ 503, "storage_unavailable" }, { answer.status, answer.json.code })
    assert.is_true(BYTES == service:get(path, { token = token }).body)
    assert.equal(0, jobs())
    assert.not_matches("atelier_objects_damaged_total{", service:get("/metrics").body, 1, true)
  end)

  it("is cut also where the whole was asked for as a range", function()
    remote(3000000)
    rot(2999999)
    local client, part = begin(1000, nil, "Range: bytes=0-\r\n")
    local rest, left = client:take(#BYTES - #part)
    assert.is_nil(rest)
    assert.is_true(#part + #left < #BYTES)
    client:close()
    assert.equal("object_damaged", history(1)[1].reason)
  end)

  it("is queued where the store itself says that the hash is another one", function()
    remote(5000)
    query("update ate_files set checksum = $2 where id = $1::uuid", { file.id, ("0"):rep(64) })
    local head = service:request("HEAD", path, { token = token })
    assert.equal(202, head.status)
    assert.equal(202, service:get(path, { token = token, headers = { Range = "bytes=0-9" } }).status)
  end)

  it("is queued when its object is gone, or is another one", function()
    remote(5000)
    query("update ate_files set file_size_bytes = 4999 where id = $1::uuid", { file.id })
    assert.equal(202, service:get(path, { token = token }).status)
    query("update ate_files set file_size_bytes = 5000, file_path = 'generated/x/gone.ate' where id = $1::uuid", { file.id })
    assert.equal(202, service:get(path, { token = token }).status)
    assert.equal(0, #history(0))
  end)
end)
