local api = require "spec.support.api"
local json = require "atelier.json"
local licence = require "ate.licence"

describe("api.generate", function()
  local service
  setup(function() service = api.start() end)
  teardown(function() service:stop() end)

  local function generate(plan, body)
    return service:post("/api/ate/generate", body, { token = service:token(service[plan].user) })
  end

  it("tells a new job from one that is queued already", function()
    service:file "max"
    local first = generate("max", { device_hash = service.max.hash })
    assert.equal(202, first.status)
    assert.equal("queued", first.json.status)
    assert.equal("/api/ate/status?device_hash=DEV-MAX&template=smartgram", first.json.status_url)
    local second = generate("max", { device_hash = service.max.hash, template = "smartgram", priority = 1 })
    assert.equal(200, second.status)
    assert.equal(first.json.queue_id, second.json.queue_id)
    assert.same({ priority = 1, reason = "request" }, (function()
      local row = service.conn:query("select priority, reason from file_generation_queue where id = $1::uuid",
        { first.json.queue_id })[1]
      return { priority = row.priority, reason = row.reason }
    end)())
    assert.matches("generation requested .*device=DEV%-MAX", service:log())
  end)

  it("refuses what is not the caller's as if it were not there", function()
    for _, hash in ipairs { service.pro.hash, "NO-SUCH-DEVICE" } do
      local answer = generate("starter", { device_hash = hash })
      assert.equal(404, answer.status)
      assert.same({ code = "unknown_device", message = "unknown device", details = "unknown_device",
        hint = "Check the device hash; a device must be registered, and yours." }, answer.json)
    end
  end)

  it("says why a device is not entitled", function()
    service.conn:query("update licenses set is_valid = false where device_id = $1::uuid", { service.starter.device })
    local answer = generate("starter", { device_hash = service.starter.hash })
    service.conn:query("update licenses set is_valid = true where device_id = $1::uuid", { service.starter.device })
    assert.equal(403, answer.status)
    assert.equal("not_entitled", answer.json.code)
    assert.equal("licence_invalid", answer.json.details)
    assert.equal("The licence is not valid.", answer.json.hint)
  end)

  it("refuses an unknown template", function()
    local answer = generate("pro", { device_hash = service.pro.hash, template = "nothing" })
    assert.equal(404, answer.status)
    assert.equal("unknown_template", answer.json.code)
  end)

  local wrong = {
    { {}, "device_hash", "is missing" },
    { { device_hash = json.null }, "device_hash", "is missing" },
    { { device_hash = 1 }, "device_hash", "must be a string" },
    { { device_hash = ".hidden" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = ("x"):rep(129) }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "a/b" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "a\n" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "a\0b" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "日本" }, "device_hash", "must be 1 to 128 characters" },
    { { device_hash = "A", template = "UPPER" }, "template", "must be 1 to 64 characters" },
    { { device_hash = "A", template = {} }, "template", "must be a string" },
    { { device_hash = "A", priority = 0 }, "priority", "must be 1 to 10" },
    { { device_hash = "A", priority = 11 }, "priority", "must be 1 to 10" },
    { { device_hash = "A", priority = 1.5 }, "priority", "must be a whole number" },
    { { device_hash = "A", priority = "5" }, "priority", "must be a whole number" },
    { { device_hash = "A", max_retries = 5 }, "max_retries", "is unknown" },
  }
  for _, case in ipairs(wrong) do
    it("names the field that is wrong: " .. assert(json.encode(case[1])):sub(1, 60), function()
      local answer = generate("starter", case[1])
      assert.equal(400, answer.status)
      assert.equal("bad_parameter", answer.json.code)
      assert.equal(case[2], answer.json.details)
      assert.matches("^" .. case[2] .. ": " .. case[3], answer.json.message)
    end)
  end

  it("takes JSON only, one strict object", function()
    local token = service:token(service.pro.user)
    local function status(body, kind)
      local answer = service:request("POST", "/api/ate/generate", { token = token, body = body,
        headers = { ["Content-Type"] = kind or "application/json" } })
      return answer.status, answer.json.code
    end
    local good = '{"device_hash": "DEV-PRO"}'
    assert.equal(200, (status(good, "Application/JSON; charset=utf-8")))
    assert.same({ 415, "unsupported_media_type" }, { status(good, "text/plain") })
    assert.same({ 415, "unsupported_media_type" }, { status(good, "application/x-www-form-urlencoded") })
    for _, text in ipairs { "", "{", "[]", '"text"', "null", "1", '{"device_hash": "A", "device_hash": "B"}', good .. "x",
      '{"device_hash": "\xff"}', ("[" ):rep(500), '{"device_hash": NaN}' } do
      assert.same({ 400, "bad_json" }, { status(text) })
    end
    assert.equal(413, (status('{"device_hash": "' .. ("x"):rep(20000) .. '"}')))
  end)
end)

describe("the caller's lists", function()
  local service, tokens
  setup(function()
    service = api.start()
    tokens = {}
    for _, plan in ipairs { "starter", "pro", "max" } do tokens[plan] = service:token(service[plan].user) end
  end)
  teardown(function() service:stop() end)

  local function pages(path, token, limit)
    local all, after = {}, nil
    repeat
      local answer = service:get(("%s%slimit=%d%s"):format(path, path:find("?", 1, true) and "&" or "?", limit,
        after and "&after=" .. after or ""), { token = token })
      assert.equal(200, answer.status, answer.body)
      assert.is_true(#answer.json.items <= limit)
      table.move(answer.json.items, 1, #answer.json.items, #all + 1, all)
      after = answer.json.next
    until after == json.null
    return all
  end

  it("has the plans by price, in pages", function()
    for limit = 1, 4 do
      local names = {}
      for i, plan in ipairs(pages("/api/ate/plans", tokens.pro, limit)) do names[i] = plan.name end
      assert.same({ "starter", "pro", "max" }, names)
    end
    local starter = pages("/api/ate/plans", tokens.pro, 50)[1]
    assert.same({ name = "starter", display_name = "⚡ STARTER", price_jpy = 2980, tools = { "timeline", "basic_analysis" },
      max_devices = 1, trial_days = 3 }, setmetatable(starter, nil))
  end)

  it("has the caller's files and nobody else's", function()
    assert.same({}, pages("/api/ate/files", tokens.starter, 5))
    local row = service:file("starter", "abc")
    service:file "max"
    local files = pages("/api/ate/files", tokens.starter, 5)
    assert.equal(1, #files)
    local file = files[1]
    assert.equal(row.id, file.ate_file_id)
    assert.same({ "DEV-STARTER", "smartgram", 3, "starter", true, 0 }, { file.device_hash, file.template, file.file_size,
      file.plan, file.is_ready, file.download_count })
    assert.matches("link=", file.download_url)
    assert.equal(1, #pages("/api/ate/files?device_hash=DEV-STARTER", tokens.starter, 5))
    assert.equal(0, #pages("/api/ate/files?device_hash=DEV-MAX", tokens.starter, 5))
  end)

  it("has the caller's downloads, the latest first, in pages", function()
    local file = service:file "pro"
    local other = service:file "max"
    for i = 1, 7 do
      service.conn:query("select log_download($1::uuid, '10.0.0.1', $2, $3)", { file.id, "agent " .. i, i })
    end
    service.conn:query("select log_download($1::uuid, '10.0.0.2', 'other', 1)", { other.id })
    for _, limit in ipairs { 1, 3, 7, 50 } do
      local bytes = {}
      for i, entry in ipairs(pages("/api/ate/history", tokens.pro, limit)) do bytes[i] = entry.bytes end
      assert.same({ 7, 6, 5, 4, 3, 2, 1 }, bytes)
    end
    local entry = pages("/api/ate/history", tokens.pro, 50)[1]
    assert.same({ "10.0.0.1", "agent 7", "completed", true, "DEV-PRO", file.id },
      { entry.ip, entry.user_agent, entry.status, entry.reached_end, entry.device_hash, entry.ate_file_id })
    assert.equal(0, #pages("/api/ate/history?ate_file_id=" .. other.id, tokens.pro, 50))
    assert.equal(7, #pages("/api/ate/history?ate_file_id=" .. file.id, tokens.pro, 50))
  end)

  it("refuses cursors that it did not make", function()
    local crypto = require "atelier.crypto"
    for _, cursor in ipairs { "x", "AAAA", crypto.base64url_encode "{}", crypto.base64url_encode "[]",
      crypto.base64url_encode '["a","b"]', crypto.base64url_encode '[1,2]', crypto.base64url_encode "[[[[",
      crypto.base64url_encode '["2026-01-01T00:00:00Z","no uuid"]', ("A"):rep(600), "%00", "a b" } do
      for _, path in ipairs { "files", "history", "plans" } do
        local answer = service:get(("/api/ate/%s?after=%s"):format(path, (cursor:gsub(" ", "%%20"))), { token = tokens.pro })
        assert.equal(400, answer.status)
        if cursor ~= "%00" then assert.equal("after", answer.json.details) end
      end
    end
  end)

  it("refuses limits that are none", function()
    for _, limit in ipairs { "0", "-1", "201", "1.5", "x", "", "1e2", "99999999999999999999" } do
      local answer = service:get("/api/ate/files?limit=" .. limit, { token = tokens.pro })
      assert.equal(400, answer.status)
      assert.equal("limit", answer.json.details)
    end
  end)

  it("gives the licence key of the file that the device has", function()
    service:file "pro"
    local answer = service:get("/api/ate/license?device_hash=DEV-PRO", { token = tokens.pro })
    assert.equal(200, answer.status)
    assert.equal("no-store", answer.headers["cache-control"])
    assert.equal(licence.key((service.ring:master()), service.pro.device), answer.json.license_key)
    assert.equal("pro", answer.json.plan)
    assert.matches("^%d%d%d%d%-.*Z$", answer.json.expires_at)
    assert.equal(404, service:get("/api/ate/license?device_hash=DEV-PRO", { token = tokens.max }).status)
    -- A key that was current when the file was made stays the file's; the API notices the new ring by itself.
    local before = answer.json.license_key
    assert(service.ring:rotate { master = true })
    assert.equal(before, service:get("/api/ate/license?device_hash=DEV-PRO", { token = tokens.pro }).json.license_key)
    service:file "pro"
    local after = service:get("/api/ate/license?device_hash=DEV-PRO", { token = tokens.pro }).json.license_key
    assert.equal(licence.key((service.ring:master()), service.pro.device), after)
    assert.not_equal(before, after)
  end)

  it("gives no licence key to who is not entitled and has no file", function()
    service.conn:query("delete from ate_files where device_id = $1::uuid", { service.max.device })
    service.conn:query("update devices set status = 'suspended' where id = $1::uuid", { service.max.device })
    local answer = service:get("/api/ate/license?device_hash=DEV-MAX", { token = tokens.max })
    service.conn:query("update devices set status = 'active' where id = $1::uuid", { service.max.device })
    assert.same({ 403, "not_entitled", "device_not_active" }, { answer.status, answer.json.code, answer.json.details })
    assert.equal(200, service:get("/api/ate/license?device_hash=DEV-MAX", { token = tokens.max }).status)
  end)
end)
