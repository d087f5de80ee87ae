-- Remote stores behind a proxy that cuts, lies and holds back: one fault after the other, for each driver.
local clock = require "clock"
local contract = require "spec.storage.contract"
local crypto = require "atelier.crypto"
local cutter = require "spec.support.cutter"
local http = require "atelier.http"
local program = require "spec.support.program"
local s3 = require "storage.s3"
local stand_in = require "spec.support.supabase"
local supabase = require "storage.supabase"
local swift = require "spec.support.swift"

local PART <const> = 5 << 20

local DRIVERS = {
  {
    name = "supabase", upload = "POST /storage/v1/object/", read = "GET /storage/v1/object/ate-files", every = 7,
    look = "GET /storage/v1/object/info/", size = { '"size":\\d+', '"size":3' },
    hash = { '"sha256":"[0-9a-f]+"', '"sha256":"' .. ("0"):rep(64) .. '"' },
    list = "POST /storage/v1/object/list-v2/",
    empty = '{"hasNext":true,"nextCursor":"bDpn","folders":[],"objects":[]}',
    first = '{"hasNext":true,"nextCursor":"bDpn","folders":[],"objects":[{"name":"generated/a","metadata":{}}]}',
    start = stand_in.start,
    open = function(url, dir)
      return supabase.open { state_dir = dir, supabase_url = url, supabase_service_role_key = stand_in.KEY,
        supabase_bucket = "ate-files" }
    end,
  },
  {
    name = "s3", upload = "PUT /ate-files/", read = "GET /ate-files/", every = 29,
    look = "HEAD /ate-files/", size = { "content-length: \\d+", "content-length: 3" },
    hash = { "x-amz-meta-sha256: [0-9a-f]+", "x-amz-meta-sha256: 00" },
    list = "list-type=2",
    empty = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>Zw==</NextContinuationToken>"
      .. "</ListBucketResult>",
    first = "<ListBucketResult><Contents><Key>generated/a</Key><Size>1</Size></Contents></ListBucketResult>",
    start = function(dir)
      local server = swift.start(dir)
      server.url = server.endpoint
      return server
    end,
    open = function(url, dir)
      return s3.open { state_dir = dir, s3_endpoint = url, s3_region = "us-east-1", s3_bucket = "ate-files",
        s3_access_key = "test:tester", s3_secret_key = "testing", s3_part_bytes = PART }
    end,
  },
}

local function cases(driver)
  local server, proxy, store, dir, prefix

  setup(function()
    dir = program.folder()
    server = driver.start(dir)
    proxy = cutter.start(server.url)
  end)

  teardown(function()
    proxy:stop()
    server:stop()
    program.remove(dir)
    collectgarbage()
    collectgarbage()
    assert.equal(0, http.live_handles())
  end)

  before_each(function()
    proxy:rules()
    store = assert(driver.open(proxy.url, dir))
    prefix = ("generated/%s/"):format(crypto.hex(crypto.random(6)))
    assert.is_true(contract.put(store, prefix .. "0", { "the bucket is there" }))
    proxy:seen()
  end)

  after_each(function()
    store:close()
  end)

  local function names()
    local found = {}
    for i, entry in ipairs(assert(store:list(prefix))) do
      found[i] = entry.key:sub(#prefix + 1)
    end
    return found
  end

  -- One object for each point, all at once; the rule of each is for its own upload.
  local function put_all(points, rule, text)
    local rules, tickets = {}, {}
    for i, point in ipairs(points) do
      rules[i] = { match = ("%sate-files/%sat-%d "):format(driver.upload:gsub("ate%-files/$", ""), prefix, point),
        [rule] = point }
    end
    proxy:rules(rules)
    for i, point in ipairs(points) do
      tickets[i] = assert(store:put(prefix .. "at-" .. point, { text }, { sha256 = contract.sha256(text) }))
    end
    for i, point in ipairs(points) do
      local ok, message = store:wait(tickets[i], 600)
      assert.is_true(ok, ("cut at %d: %s"):format(point, message))
    end
    assert.equal(#points + 1, #names())
    for _, entry in ipairs(store:list(prefix)) do
      assert.equal(entry.key == prefix .. "0" and 19 or #text, entry.size, entry.key)
    end
  end

  -- Every so many of the first bytes, and all of the last; of all bytes with EVERY=1, which takes minutes.
  local function points_of(size)
    local points, every = {}, tonumber(os.getenv "EVERY") or driver.every
    for at = 0, size - 1 do
      if at % every == 0 or at > size - 24 then
        points[#points + 1] = at
      end
    end
    return points
  end

  it("is put to although the request is reset at any byte", function()
    put_all(points_of(760), "up", "0123456789")
  end)

  it("is put to although the answer is lost at any byte", function()
    put_all(points_of(300), "down", "0123456789")
  end)

  it("is put to although a large upload is reset on its way", function()
    put_all({ 1000, 16384, 65536, 65537, 500000, 1000000, 1048576, 1999000, 2000000 }, "up", ("0123456789"):rep(200000))
  end)

  it("shows nothing of an object whose upload never ends", function()
    local key = prefix .. "never"
    for _, point in ipairs { 0, 300, 5000 } do
      proxy:rules { { match = driver.upload, up = point, times = 1000 } }
      local none, message, code = contract.put(store, key, { ("x"):rep(9000) })
      assert.is_nil(none)
      assert.equal("unavailable", code, message)
    end
    proxy:rules()
    assert.equal("not_found", select(3, store:head(key)))
    assert.same({ "0" }, names())
    assert.is_true(contract.put(store, key, { "another try" }))
  end)

  it("is read from although the answers are cut at any byte, with a reset or in order", function()
    local text = ("0123456789"):rep(40)
    assert.is_true(contract.put(store, prefix .. "read", { text }))
    for point = 0, #text + 240, 23 do
      local reader = assert(store:get(prefix .. "read"))
      proxy:rules { { match = driver.read, down = point, fin = point % 2 == 0 } }
      assert.equal(#text, reader.size)
      assert.equal(text, reader:read(1000))
      assert.is_nil(reader:read(1000))
    end
  end)

  it("is told from one that has no answer to a download", function()
    assert.is_true(contract.put(store, prefix .. "read", { "some bytes" }))
    local reader = assert(store:get(prefix .. "read"))
    proxy:rules { { match = driver.read, down = 100, times = 1000 } }
    local none, message, code = reader:read(100)
    assert.is_nil(none)
    assert.equal("unavailable", code, message)
    proxy:rules()
    assert.equal("some bytes", reader:read(100), "goes on where it was")
  end)

  it("is not believed when it only says that it has stored", function()
    local key = prefix .. "said"
    proxy:rules { { match = driver.upload, answer = { status = 200, body = '{"Key":"k"}' } } }
    local none, message, code = contract.put(store, key, { "bytes" })
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("confirmed it, and then", message, 1, true)
    assert.is_true(contract.put(store, key, { "bytes" }))
  end)

  for _, what in ipairs { "size", "hash" } do
    it("is not believed when it tells another " .. what, function()
      local key = prefix .. "other"
      proxy:rules { { match = driver.look, alter = driver[what], times = 1000 } }
      local none, message, code = contract.put(store, key, { "four" }, { sha256 = contract.sha256 "four" })
      assert.is_nil(none)
      assert.equal("unavailable", code, message)
      assert.matches(what == "size" and "has 3 bytes of 4" or "SHA-256 00", message, 1, true)
    end)
  end

  it("is not read from when the object becomes another one", function()
    local text = ("x"):rep((1 << 20) + 10)
    assert.is_true(contract.put(store, prefix .. "changes", { text }))
    local reader = assert(store:get(prefix .. "changes"))
    assert.equal(1 << 20, #reader:read(1 << 20))
    proxy:rules { { match = driver.read, alter = { 'etag: "?[0-9a-f]+"?', 'etag: "other"' } } }
    local none, message, code = reader:read(1 << 20)
    assert.is_nil(none)
    assert.equal("corrupt", code)
    assert.matches("is another one than it was", message, 1, true)
    reader = assert(store:get(prefix .. "changes"))
    for _, change in ipairs { { "/1048586", "/9048586" }, { "bytes 0-", "bytes 5-" } } do
      proxy:rules { { match = driver.read, alter = change } }
      assert.equal("corrupt", select(3, reader:read(100)))
    end
    assert.equal(text, reader:read(#text) .. reader:read(#text))
  end)

  it("is read from although its entity tags are weak, have no quotes, or are taken away on the way", function()
    local text = ("y"):rep((1 << 20) + 10)
    assert.is_true(contract.put(store, prefix .. "tagged", { text }))
    for _, form in ipairs { 'etag: W/"$1"', "etag: $1", "x-nothing: $1" } do
      proxy:rules { { match = driver.read, alter = { 'etag: "?([0-9a-f]+)"?', form }, times = 10 } }
      assert.equal(text, contract.read_all(store, prefix .. "tagged"), form)
      proxy:rules { { match = " /", alter = { 'etag: "?([0-9a-f]+)"?', form }, times = 10 } }
      assert.equal(text, contract.read_all(store, prefix .. "tagged"), form)
    end
  end)

  it("is walked on when a page of its list is empty, and not for ever when that begins anew", function()
    local entries = assert(store:list(prefix))
    proxy:rules { { match = driver.list, answer = { status = 200, body = driver.empty } } }
    assert.same(entries[1].key, assert(store:list(prefix))[1].key)
    proxy:rules { { match = driver.list, answer = { status = 200, body = driver.empty }, times = 20 } }
    local none, message, code = store:list(prefix)
    assert.is_nil(none)
    assert.equal("unavailable", code, message)
    proxy:rules { { match = driver.list, answer = { status = 200, body = driver.first }, times = 20 } }
    none, message, code = store:list(prefix, "generated/b")
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("begins its list anew", message, 1, true)
  end)

  it("behind a proxy with a page for everything is out of reach, and has nothing deleted", function()
    for _, status in ipairs { 200, 302, 404, 502 } do
      proxy:rules { { match = " /", times = 1000, answer = { status = status, body = "<html>Hello</html>",
        headers = { ["content-type"] = "text/html" } } } }
      for operation, subject in pairs { delete = { prefix .. "0" }, list = prefix, get = prefix .. "0" } do
        local none, message, code = store[operation](store, subject)
        assert.is_nil(none, ("%s with %d"):format(operation, status))
        assert.equal("unavailable", code == "denied" and "unavailable" or code, message)
      end
    end
    proxy:rules()
    assert.same({ "0" }, names())
  end)

  it("that asks for patience is left alone", function()
    proxy:rules { { match = " /", times = 1000, answer = { status = 429, headers = { ["retry-after"] = "120" } } } }
    assert.equal("unavailable", select(3, contract.put(store, prefix .. "later", { "x" })))
    assert.equal("unavailable", select(3, store:look(prefix .. "later", 60)))
    proxy:seen()
    local none, message, code = store:look(prefix .. "later", 60)
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.is_true(tonumber(message:match "asks for patience, (%d+) s more") <= 60, message)
    assert.equal(0, #proxy:seen().seen)
  end)

  it("that asks for patience with one object answers for others", function()
    proxy:rules { { match = driver.upload, times = 1000, answer = { status = 429, headers = { ["retry-after"] = "120" } } } }
    assert.equal("unavailable", select(3, contract.put(store, prefix .. "later", { "x" })))
    assert.equal(19, assert(store:look(prefix .. "0", 60)).size)
  end)

  it("that takes too long for a piece of an object does not hold its reader", function()
    local reader = assert(store:get(prefix .. "0"))
    proxy:rules { { match = driver.read, times = 1000, gate = true, answer = { status = 200 } } }
    store.driver.piece_seconds = 0.1
    local none, message, code = reader:read()
    store.driver.piece_seconds = nil
    assert.is_nil(none)
    assert.equal("unavailable", code, message)
    proxy:rules()
    assert.equal(19, #reader:read())
  end)

  it("that says nothing is not looked at for longer than allowed, and nothing stays under way", function()
    proxy:rules { { match = " /", times = 1000, gate = true, answer = { status = 200 } } }
    local none, message, code = store:look(prefix .. "0", 0.2)
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("no answer in 0.2 s", message, 1, true)
    assert.equal(0, store.reactor.multi:count())
    proxy:rules()
    assert.equal(19, assert(store:head(prefix .. "0")).size)
  end)

  if driver.name ~= "s3" then
    return
  end

  -- ==== what S3 alone has ====

  local function large()
    local path = contract.temporary(crypto.random(1 << 20), 12)
    return path, crypto.hex(crypto.sha256_file(path))
  end

  local function put_large(key)
    local path, hash = large()
    finally(function()
      os.remove(path)
    end)
    local ok, message, code = contract.put(store, key, path, { sha256 = hash })
    return ok, message, code, hash
  end

  it("gets large objects although any step of it is cut, or its answer lost", function()
    for i, rule in ipairs {
      { match = "uploads=", up = 100 }, { match = "uploads=", down = 0 }, { match = "uploads=", down = 150 },
      { match = "partNumber=1", up = 700 }, { match = "partNumber=2", up = 3000000 }, { match = "partNumber=3", down = 0 },
      { match = "POST /ate-files/" .. prefix .. "large-7?uploadId=", up = 600 },
      { match = "POST /ate-files/" .. prefix .. "large-8?uploadId=", down = 0 },
      { match = "POST /ate-files/" .. prefix .. "large-9?uploadId=", down = 200 },
    } do
      proxy:rules { rule }
      local key = prefix .. "large-" .. i
      local ok, message, _, hash = put_large(key)
      assert.is_true(ok, ("%s: %s"):format(rule.match, message))
      assert.same({ 12 << 20, hash }, { store:head(key).size, store:head(key).sha256 })
    end
    assert.equal(10, #names())
    local _, unfinished = store:list(prefix)
    assert.equal(#unfinished, store:clear(unfinished, -3600))
    assert.same({}, select(2, store:list(prefix)))
  end)

  it("tells the size of an object whose head has none, and its keys when XML cannot", function()
    proxy:rules { { match = "HEAD /", alter = { "content-length: \\d+", "x-length: none" }, times = 20 } }
    assert.equal(19, assert(store:head(prefix .. "0")).size)
    assert.is_true(contract.put(store, prefix .. "1", { "x" }))
    proxy:rules { { match = "list-type=2", answer = { status = 200,
      body = "<ListBucketResult><Contents><Key>generated/&#1;</Key></Contents></ListBucketResult>" } } }
    assert.same({ "0", "1" }, names())
    assert.matches("encoding-type=url", table.concat(proxy:seen().seen, "\n"), 1, true)
  end)

  it("may be below a path, as a project's of Supabase is", function()
    local own <close> = assert(s3.open { state_dir = dir, s3_endpoint = proxy.url .. "/storage/v1/s3/",
      s3_region = "us-east-1", s3_bucket = "files", s3_access_key = "a", s3_secret_key = "s" })
    proxy:rules { { match = "HEAD /storage/v1/s3/files/generated/x ", answer = { status = 404 } },
      { match = "GET /storage/v1/s3/files/generated/x ", answer = { status = 404,
        body = "<Error><Code>NoSuchKey</Code></Error>" } },
      { match = "GET /storage/v1/s3/files?list-type=2&", answer = { status = 200, body = "<ListBucketResult/>" } } }
    assert.equal("not_found", select(3, own:head "generated/x"))
    assert.same({}, (own:list("generated/", "generated/a")))
  end)

  it("sends two parts of a large object at a time", function()
    local busy = { status = 503 }
    proxy:rules { { match = "partNumber=1", answer = busy, gate = true },
      { match = "partNumber=2", answer = busy, gate = true } }
    local path, hash = large()
    local ticket = assert(store:put(prefix .. "abreast", path, { sha256 = hash }))
    local deadline = clock.now() + 120
    while proxy:waiting() < 2 and clock.now() < deadline do
      assert.equal("timeout", select(3, store:wait(ticket, 0.05)))
    end
    assert.equal(2, proxy:waiting())
    proxy:open()
    assert.is_true(store:wait(ticket, 120))
    assert.equal(hash, assert(store:head(prefix .. "abreast")).sha256)
  end)

  it("shows nothing of a large object whose parts do not arrive, and keeps none", function()
    for _, step in ipairs { "partNumber=2", "?uploadId=" } do
      proxy:rules { { match = step, answer = { status = 500 }, times = 1000 } }
      assert.equal("unavailable", select(3, put_large(prefix .. "large")))
      proxy:rules()
      local _, unfinished = store:list(prefix)
      store:clear(unfinished, -3600)
      assert.same({ "0" }, names())
      assert.same({}, select(2, store:list(prefix)))
    end
  end)

  local EXPIRED = { status = 400, body = "<Error><Code>ExpiredToken</Code><Message>over</Message></Error>",
    headers = { ["content-type"] = "application/xml" } }

  it("whose credentials end amid a large object keeps nothing of it, and says so", function()
    proxy:rules { { match = "partNumber=2", answer = EXPIRED, times = 1000 } }
    local none, message, code = put_large(prefix .. "large")
    assert.is_nil(none)
    assert.equal("denied", code)
    assert.matches("ExpiredToken: over; these temporary credentials are over", message, 1, true)
    assert.same({ "0" }, names())
    assert.same({}, select(2, store:list(prefix)), "what was sent is given up")
  end)

  it("goes on with credentials that are renewed amid a large object", function()
    local path = dir .. "/secret"
    local function write(secret)
      local file = assert(io.open(path, "w"))
      file:write(secret, "\n")
      file:close()
    end
    write "testing"
    local own <close> = assert(s3.open { state_dir = dir, s3_endpoint = proxy.url, s3_region = "us-east-1",
      s3_bucket = "ate-files", s3_access_key = "test:tester", s3_secret_key = "old", s3_session_token = nil,
      s3_part_bytes = PART, secret_files = { s3_secret_key = path } })
    -- The server knows one secret: what is renewed here is the blank line after it, which the driver cuts off, and the
    -- token, of which the server knows nothing.
    own.driver.secret.files.s3_session_token = dir .. "/token"
    proxy:rules { { match = "partNumber=2", answer = EXPIRED, gate = true } }
    local file, hash = large()
    local ticket = assert(own:put(prefix .. "renewed", file, { sha256 = hash }))
    local deadline = clock.now() + 120
    while proxy:waiting() == 0 and clock.now() < deadline do
      assert.equal("timeout", select(3, own:wait(ticket, 0.05)))
    end
    local token = assert(io.open(dir .. "/token", "w"))
    token:write "renewed"
    token:close()
    proxy:open()
    assert.is_true(own:wait(ticket, 120))
    assert.equal(hash, assert(store:head(prefix .. "renewed")).sha256)
    os.remove(dir .. "/token")
  end)

  it("refuses a clock that is off, and that is no fault of the object", function()
    proxy:rules { { match = driver.upload, times = 1000, swap = { "x-amz-date: \\d{8}T", "x-amz-date: 20200101T" } } }
    local none, message, code = contract.put(store, prefix .. "skew", { "x" })
    assert.is_nil(none)
    assert.equal("denied", code, message)
    assert.matches("RequestTimeTooSkewed.*set this host's clock", message)
  end)

  local function bucket(method, name)
    return assert(http.request { method = method, url = server.url .. "/" .. name,
      sigv4 = { access_key = "test:tester", secret_key = "testing", region = "us-east-1" } }).status
  end

  it("whose bucket vanishes says so to everything, until it is there again", function()
    assert.equal(200, bucket("PUT", "vanishing"))
    local own <close> = assert(s3.open { state_dir = dir, s3_endpoint = proxy.url, s3_region = "us-east-1",
      s3_bucket = "vanishing", s3_access_key = "test:tester", s3_secret_key = "testing", s3_part_bytes = PART })
    assert.is_true(contract.put(own, "generated/d/1", { "x" }))
    assert.equal(1, own:delete { "generated/d/1" })
    assert.equal(204, bucket("DELETE", "vanishing"))
    for operation, subject in pairs { head = "generated/d/1", get = "generated/d/1", delete = { "generated/d/1" },
      list = "generated/", look = "generated/d/1" } do
      local none, message, code = own[operation](own, subject, operation == "look" and 30 or nil)
      assert.is_nil(none, operation)
      assert.equal("no_bucket", code, operation .. ": " .. message)
    end
    local path = large()
    for _, source in ipairs { { "x" }, path } do
      assert.equal("no_bucket", select(3, contract.put(own, "generated/d/2", source)))
    end
    os.remove(path)
    assert.equal(200, bucket("PUT", "vanishing"))
    assert.is_true(contract.put(own, "generated/d/2", { "x" }))
  end)
end

for _, driver in ipairs(DRIVERS) do
  describe("a store on " .. driver.name, function()
    cases(driver)
  end)
end
