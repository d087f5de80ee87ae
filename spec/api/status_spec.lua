local api = require "spec.support.api"
local json = require "atelier.json"

describe("api.status", function()
  local service
  setup(function() service = api.start() end)
  teardown(function() service:stop() end)

  local function status(plan, query)
    return service:get("/api/ate/status?device_hash=" .. service[plan].hash .. (query or ""),
      { token = service:token(service[plan].user) })
  end

  it("shows a queued job and no file", function()
    local answer = status "starter"
    assert.equal(200, answer.status)
    local body = answer.json
    assert.is_false(body.is_ready)
    assert.equal("no_file", body.reason)
    assert.equal(json.null, body.ate_file_id)
    assert.equal(json.null, body.download_url)
    assert.equal("queued", body.job.state)
    assert.is_true(body.job.position >= 1)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d", body.job.queued_at)
  end)

  it("shows a file that is ready", function()
    local file = service:file("pro", "twelve bytes")
    local body = status("pro", "&template=smartgram").json
    assert.is_true(body.is_ready)
    assert.equal(json.null, body.reason)
    assert.equal(file.id, body.ate_file_id)
    assert.equal(12, body.file_size)
    assert.equal(file.checksum, body.checksum)
    assert.equal(0, body.download_count)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", body.expires_at)
    assert.matches("^/api/ate/download/" .. file.id:gsub("%-", "%%-") .. "%?link=", body.download_url)
    assert.equal("completed", body.job.state)
  end)
end)
