local api = require "spec.support.api"
local crypto = require "atelier.crypto"
local link = require "api.link"
local log = require "log"
local time = require "posix.time"

local service, token, file, path, BYTES

local function start(options)
  options = options or {}
  options.prepare = function(app)
    local out = assert(io.open(app.config.state_dir .. "/log", "a"))
    out:setvbuf "line"
    log.configure { level = "info", out = out }
  end
  service = api.start(options)
  BYTES = crypto.random(100000)
  file = service:file("pro", BYTES)
  path = "/api/ate/download/" .. file.id
  token = service:token(service.pro.user)
end

local function get(headers, options)
  options = options or {}
  return service:get(options.path or path, { token = options.token or token, headers = headers })
end

local function ask(method, headers)
  return service:request(method, path, { token = token, headers = headers })
end

local function query(sql, params)
  return assert(service.conn:query(sql, params))
end

-- Waits for a number of rows of download_history and gives all, oldest first.
local function history(count)
  local deadline = os.time() + 60
  while true do
    local rows = query([[select status, bytes_downloaded as bytes, reached_end, host(download_ip) as ip, user_agent as agent
      from download_history order by created_at, id]])
    if #rows >= count then return rows end
    assert(os.time() < deadline, ("%d rows instead of %d\n%s"):format(#rows, count, service:log()))
    time.nanosleep { tv_sec = 0, tv_nsec = 5000000 }
  end
end

local function downloads()
  return query("select download_count as n from ate_files where id = $1::uuid", { file.id })[1].n
end

local function object()
  return service.config.storage_dir .. "/" .. file.file_path
end

local function jobs()
  return query([[select status from file_generation_queue where device_id = $1::uuid and status in ('queued', 'processing')
    order by created_at]], { service.pro.device })
end

local function link_of(user, id, expiry)
  return link.make(assert(link.keys(service.ring)), user, id, expiry or os.time() + 290)
end

describe("a download", function()
  before_each(function() start() end)
  after_each(function() service:stop() end)

  it("is written down although another one's file is held by somebody", function()
    local other = service:file("max", "theirs")
    query "begin"
    query("select from ate_files where id = $1::uuid for update", { other.id })
    local theirs = service:get("/api/ate/download/" .. other.id, { token = service:token(service.max.user) })
    assert.equal("theirs", theirs.body)
    assert.equal(200, get().status)
    assert.equal(#BYTES, history(1)[1].bytes)
    assert.equal(200, get().status)
    assert.equal(2, #history(2))
    query "commit"
    assert.equal(3, #history(3))
    assert.equal(2, downloads())
    assert.equal(1, query("select download_count as n from ate_files where id = $1::uuid", { other.id })[1].n)
  end)

  it("is the file, with all that is known of it", function()
    local answer = get()
    local h = answer.headers
    assert.equal(200, answer.status)
    assert.is_true(BYTES == answer.body)
    assert.equal("application/octet-stream", h["content-type"])
    assert.equal('"' .. crypto.hex(crypto.sha256(BYTES)) .. '"', h.etag)
    assert.equal("sha-256=:" .. crypto.base64_encode(crypto.sha256(BYTES)) .. ":", h["repr-digest"])
    assert.equal("bytes", h["accept-ranges"])
    assert.equal("private, no-store", h["cache-control"])
    assert.matches('^attachment; filename="DEV%-PRO_%d+%.ate"$', h["content-disposition"])
    assert.equal("nosniff", h["x-content-type-options"])
    assert.equal("100000", h["content-length"])
    local row = history(1)[1]
    assert.equal("completed", row.status)
    assert.equal(100000, row.bytes)
    assert.equal("127.0.0.1", row.ip)
    assert.is_true(row.reached_end)
    assert.equal(1, downloads())
  end)

  it("tells the same of HEAD, and counts nothing", function()
    local answer, whole = ask "HEAD", get()
    assert.equal(200, answer.status)
    assert.equal("", answer.body)
    for _, name in ipairs { "content-length", "etag", "repr-digest", "content-type", "content-disposition", "accept-ranges" } do
      assert.equal(whole.headers[name], answer.headers[name], name)
    end
    assert.equal(200, ask("HEAD", { Range = "bytes=0-1" }).status)
    assert.equal(304, ask("HEAD", { ["If-None-Match"] = answer.headers.etag }).status)
    assert.equal(1, #history(1))
  end)

  it("is a range, and counts when the last byte has come", function()
    local first = get { Range = "bytes=0-999" }
    assert.equal(206, first.status)
    assert.equal("bytes 0-999/100000", first.headers["content-range"])
    assert.equal("1000", first.headers["content-length"])
    assert.is_true(BYTES:sub(1, 1000) == first.body)
    assert.equal("sha-256=:" .. crypto.base64_encode(crypto.sha256(BYTES)) .. ":", first.headers["repr-digest"])
    assert.is_false(history(1)[1].reached_end)
    assert.equal(0, downloads())
    local rest = get { Range = "bytes=1000-", ["If-Range"] = first.headers.etag }
    assert.equal(206, rest.status)
    assert.is_true(BYTES == first.body .. rest.body)
    local rows = history(2)
    assert.same({ 1000, 99000 }, { rows[1].bytes, rows[2].bytes })
    assert.is_true(rows[2].reached_end)
    assert.equal(1, downloads())
    assert.is_true(BYTES:sub(-7) == get({ Range = "bytes=-7" }).body)
    history(3)
    assert.equal(2, downloads())
  end)

  it("is whole, or nothing, for ranges that cannot be served alone", function()
    for _, value in ipairs { "bytes=0-1,5-6", "lines=0-1", "bytes=5-2", "bytes=x", "bytes=0-0, 99999999-" } do
      local answer = get { Range = value }
      assert.equal(200, answer.status, value)
      assert.is_true(BYTES == answer.body)
      assert.is_nil(answer.headers["content-range"])
    end
    for _, value in ipairs { "bytes=100000-", "bytes=-0", "bytes=200000-300000,400000-" } do
      local answer = get { Range = value }
      assert.equal(416, answer.status, value)
      assert.equal("bytes */100000", answer.headers["content-range"])
      assert.equal("range_not_satisfiable", answer.json.code)
    end
    assert.equal(200, get({ Range = "bytes=5-", ["If-Range"] = '"another"' }).status)
    assert.equal(6, #history(6))
  end)

  it("is not sent to who has it, or wants another one", function()
    local etag = '"' .. file.checksum .. '"'
    local same = get { ["If-None-Match"] = '"x", W/' .. etag }
    assert.equal(304, same.status)
    assert.equal(etag, same.headers.etag)
    assert.equal("", same.body)
    local refused = get { ["If-Match"] = '"x"' }
    assert.same({ 412, "application/json", etag }, { refused.status, refused.headers["content-type"], refused.headers.etag })
    assert.is_nil(refused.headers["repr-digest"], "that is of the file, and this is a problem")
    assert.equal(200, get({ ["If-Match"] = etag }).status)
    assert.equal(1, #history(1))
  end)

  it("goes on over one connection, whatever came before", function()
    local connection = service:connect()
    local function head(lines)
      return ("GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"):format(path, token, lines or "")
    end
    assert.equal(404, connection:ask((head():gsub("/download/%x+", "/download/00000000"))).status)
    assert.is_true(BYTES == connection:ask(head()).body)
    assert.equal(304, connection:ask(head 'If-None-Match: *\r\n').status)
    assert.is_true(BYTES:sub(11, 20) == connection:ask(head "Range: bytes=10-19\r\n").body)
    connection:close()
    assert.equal(2, #history(2))
  end)

  it("has a harmless name, whatever the row says", function()
    for name, safe in pairs { ['a"b\r\nX-Evil: 1.ate'] = "a_b__X-Evil__1.ate", ["../../etc/passwd"] = "_.._etc_passwd",
      ["日本.ate"] = "______.ate", [""] = "download.ate", ["..."] = "download.ate", ["-rf"] = "rf" } do
      query("update ate_files set filename = $2 where id = $1::uuid", { file.id, name })
      assert.equal(('attachment; filename="%s"'):format(safe), ask("HEAD").headers["content-disposition"])
    end
  end)

  it("notes an agent of any bytes, and one that is too long", function()
    get { ["User-Agent"] = "caf\xe9 \xff" }
    assert.equal("caf? ?", history(1)[1].agent)
    get { ["User-Agent"] = ("x"):rep(3000) }
    assert.equal(512, #history(2)[2].agent)
    get { ["User-Agent"] = "日本" }
    assert.equal("日本", history(3)[3].agent)
  end)
end)

describe("who may download", function()
  before_each(function() start() end)
  after_each(function() service:stop() end)

  it("is nobody without a token, or with a bad one", function()
    assert.equal(401, service:get(path).status)
    assert.equal("no_token", service:get(path).json.code)
    assert.equal(401, get(nil, { token = "x.y.z" }).status)
    assert.equal(403, get(nil, { token = service:operator() }).status)
    assert.equal(401, service:get(path .. "?link=", { token = "x.y.z" }).status)
  end)

  it("never tells a foreign file from one that is not there", function()
    local other = service:token(service.max.user)
    local foreign = get(nil, { token = other })
    local unknown = get(nil, { token = other, path = "/api/ate/download/00000000-0000-4000-8000-000000000000" })
    assert.equal(404, foreign.status)
    assert.same(unknown.json, foreign.json)
    foreign.headers["x-request-id"], unknown.headers["x-request-id"] = nil, nil
    foreign.headers.date, unknown.headers.date = nil, nil
    assert.same(unknown.headers, foreign.headers)
    assert.equal(400, get(nil, { path = "/api/ate/download/1" }).status)
    assert.equal(404, get(nil, { path = "/api/ate/download/" }).status)
    assert.equal(404, get(nil, { path = path .. "/x" }).status)
  end)

  it("ends with the very next request, also by a link made before", function()
    local made = link_of(service.pro.user, file.id)
    assert.equal(200, service:get(made).status)
    local reasons = {
      { "update devices set status = 'suspended' where id = $1::uuid", "device_not_active",
        "update devices set status = 'active' where id = $1::uuid" },
      { "update subscriptions set status = 'cancelled' where device_id = $1::uuid", "subscription_not_active",
        "update subscriptions set status = 'active' where device_id = $1::uuid" },
      { "update licenses set is_valid = false where device_id = $1::uuid", "licence_invalid",
        "update licenses set is_valid = true where device_id = $1::uuid" },
      { "update licenses set expires_at = now() - interval '1 s' where device_id = $1::uuid", "licence_expired",
        "update licenses set expires_at = now() + interval '30 days' where device_id = $1::uuid" },
      { "update subscriptions set plan_id = 'starter' where device_id = $1::uuid", "beyond_plan",
        "update subscriptions set plan_id = 'max' where device_id = $1::uuid" },
    }
    for _, case in ipairs(reasons) do
      query(case[1], { service.pro.device })
      for _, answer in ipairs { get(), service:get(made) } do
        assert.equal(410, answer.status, case[2])
        assert.equal("gone", answer.json.code)
        assert.equal(case[2], answer.json.details)
      end
      assert.equal(410, ask("HEAD").status)
      query(case[3], { service.pro.device })
      assert.equal(200, get().status, "after " .. case[2])
      assert.equal(200, service:get(made).status)
    end
  end)

  it("goes by the row's policies too", function()
    query "create policy spec_none on ate_files as restrictive for select to authenticated using (false)"
    assert.equal(404, get().status)
    assert.equal(404, service:get(link_of(service.pro.user, file.id)).status)
  end)

  it("may be told by a link, until its time is over", function()
    local answer = service:get(link_of(service.pro.user, file.id))
    assert.equal(200, answer.status)
    assert.is_true(BYTES == answer.body)
    assert.equal(206, service:get(link_of(service.pro.user, file.id), { headers = { Range = "bytes=0-0" } }).status)
    local late = service:get(link_of(service.pro.user, file.id, os.time() - 1))
    assert.equal(410, late.status)
    assert.equal("link_expired", late.json.code)
  end)

  it("is not who changes a link, or brings it to another file", function()
    local made = link_of(service.pro.user, file.id)
    local other = service:file("max")
    local text = made:match "link=(.*)$"
    for i = 1, #text do
      local c = text:sub(i, i) == "A" and "B" or "A"
      local answer = service:get(path .. "?link=" .. text:sub(1, i - 1) .. c .. text:sub(i + 1))
      assert.equal(403, answer.status)
      assert.equal("link_invalid", answer.json.code)
    end
    for _, odd in ipairs { "/api/ate/download/" .. other.id .. "?link=" .. text, path .. "?link=", path .. "?link=x",
      made .. "%00", made .. "%20",
      path .. link_of(service.pro.user, other.id):match "%?.*$" } do
      local answer = service:get(odd)
      assert.is_true(answer.status == 403 or answer.status == 400, odd .. " " .. answer.status)
    end
    -- A good link for a file that is somebody else's.
    assert.equal(404, service:get(link_of(service.pro.user, other.id)).status)
    -- A token is believed before a link.
    assert.equal(404, service:get(made, { token = service:token(service.max.user) }).status)
    assert.equal(400, service:get(made .. "&link=" .. text).status)
  end)

  it("is not served more often than the rate allows, by links too", function()
    service:stop()
    start { config = { rate_limit = 0.001, rate_burst = 3 } }
    local made = link_of(service.pro.user, file.id)
    for _ = 1, 3 do assert.equal(200, service:get(made).status) end
    local answer = service:get(made)
    assert.equal(429, answer.status)
    assert.truthy(tonumber(answer.headers["retry-after"]))
    assert.equal(429, get().status)
  end)
end)

describe("a file that is not there yet", function()
  before_each(function() start() end)
  after_each(function() service:stop() end)

  local function later(reason)
    local head = ask "HEAD"
    assert.equal(202, head.status)
    assert.truthy(tonumber(head.headers["retry-after"]))
    assert.equal(0, #jobs())
    local answer = get()
    assert.equal(202, answer.status)
    assert.truthy(tonumber(answer.headers["retry-after"]))
    assert.equal(reason, answer.json.reason)
    assert.equal("queued", answer.json.status)
    assert.matches("^/api/ate/status%?device_hash=DEV%-PRO&template=smartgram$", answer.json.status_url)
    assert.equal(1, #jobs())
    assert.equal(answer.json.queue_id, get().json.queue_id)
    assert.equal(1, #jobs())
    return answer.json.queue_id
  end

  it("is queued by GET when it is pending", function()
    query("update ate_files set generation_status = 'pending' where id = $1::uuid", { file.id })
    later "pending"
  end)

  it("is queued by GET when it is over and the licence is not", function()
    query("update ate_files set expires_at = now() - interval '1 s', is_active = false where id = $1::uuid", { file.id })
    later "file_expired"
  end)

  it("is queued by GET when its object is gone", function()
    assert(os.remove(object()))
    later "object_missing"
    assert.truthy(service:log():find(file.id, 1, true))
    assert.equal(0, #history(0))
  end)

  it("is queued by GET when its object has another size, of which no byte is served", function()
    for _, bytes in ipairs { BYTES .. "x", BYTES:sub(1, -2), "" } do
      local out = assert(io.open(object(), "wb"))
      out:write(bytes)
      out:close()
      query "delete from file_generation_queue where status = 'queued'"
      later "object_missing"
    end
    assert.equal(0, #history(0))
  end)

  it("is queued when in its object's place is something else", function()
    assert(os.remove(object()))
    assert(os.execute("mkdir " .. object()))
    later "object_missing"
    assert(os.execute(("rmdir %s && mkfifo %s"):format(object(), object())))
    assert.equal(202, get().status)
  end)

  it("is not queued a second time while it is made", function()
    assert(os.remove(object()))
    local id = later "object_missing"
    query("select * from claim_ate_generations('spec', 1, '60 s', $1::uuid)", { id })
    local answer = get()
    assert.equal(202, answer.status)
    assert.equal("processing", answer.json.status)
    assert.equal(id, answer.json.queue_id)
    assert.equal(1, #jobs())
  end)

  it("is gone when its template is", function()
    assert(os.remove(object()))
    query "update ate_templates set is_active = false"
    local answer = get()
    assert.equal(410, answer.status)
    assert.equal("template_inactive", answer.json.details)
  end)

  it("never leads outside the store", function()
    for _, key in ipairs { "../secret", "generated/../../secret", "/etc/passwd", "generated//x", ".hidden" } do
      query("update ate_files set file_path = $2 where id = $1::uuid", { file.id, key })
      local answer = get()
      assert.is_true(answer.status == 503 or answer.status == 202, key .. answer.status)
      assert.is_nil(answer.body:find("root", 1, true))
    end
  end)

  it("is the new one as soon as there is one", function()
    local etag = get().headers.etag
    local fresh = crypto.random(5000)
    service:file("pro", fresh)
    local answer = get { Range = "bytes=10-", ["If-Range"] = etag }
    assert.equal(200, answer.status)
    assert.is_true(fresh == answer.body)
    history(2)
    assert.equal(2, downloads())
  end)
end)
