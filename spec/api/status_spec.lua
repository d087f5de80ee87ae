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

  it("shows why a job failed, and an older error of one that did not", function()
    local conn, device = service.conn, service.max.device
    local message = 'line 3: unexpected "end" \\ near\ttab, é'
    local function job_with(state, code)
      assert(conn:query("delete from file_generation_queue where device_id = $1::uuid", { device }))
      assert(conn:query([[insert into file_generation_queue (device_id, template_id, status, error_code, error_message)
        select $1::uuid, id, $2, $3, $4 from ate_templates where name = 'smartgram']], { device, state, code, message }))
      return assert(status "max".json.job)
    end
    assert.same({ code = "jail_error", message = message }, job_with("failed", "jail_error").error)
    assert.same({ code = "worker_lost", message = message }, job_with("queued", "worker_lost").error)
    assert.equal(json.null, job_with("completed", "worker_lost").error)
    assert.equal(json.null, job_with("failed", json.null).error)
    assert.equal("failed", job_with("cancelled", "superseded").state)
  end)

  it("has null for the job of a device that never had one", function()
    assert(service.conn:query("delete from file_generation_queue where device_id = $1::uuid", { service.max.device }))
    local answer = status "max"
    assert.equal(json.null, answer.json.job)
    assert.equal("application/json", answer.headers["content-type"])
    assert.equal("smartgram", answer.json.template)
    assert.equal(404, status("max", "&template=none").status)
  end)
end)
