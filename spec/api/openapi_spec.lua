local api = require "spec.support.api"
local host = require "atelier.host"
local json = require "atelier.json"
local program = require "spec.support.program"

describe("api.openapi", function()
  local service, document
  setup(function()
    local code, out, err = program.shell(host.root .. "/spec/browser/install.sh")
    assert(code == 0, "npm could not install what spec/browser/package.json names: " .. out .. err)
    service = api.start()
    document = assert(service:get("/api/ate/openapi.json").json)
  end)
  teardown(function() service:stop() end)

  local function judge(answers)
    local path = service.dir .. "/openapi.json"
    local file = assert(io.open(path, "w"))
    local text = assert(json.encode { document = document, answers = json.array(answers) })
    file:write(text)
    file:close()
    local code, out, err = program.shell(("node %s/spec/api/support/openapi.mjs %s"):format(host.root, path))
    assert.equal("", out)
    assert.equal(0, code, err)
  end

  it("is a document that a validator of OpenAPI 3.1 accepts", function()
    judge {}
  end)

  it("tells truly what is answered", function()
    service:file "pro"
    local token, operator = service:token(service.pro.user), service:operator()
    local file = service.conn:query("select id::text from ate_files")[1].id
    service.conn:query("select log_download($1::uuid, '10.0.0.1', 'agent', 5)", { file })
    local answers = {}
    local function ask(method, path, template, options)
      local answer = service:request(method, path, options)
      answers[#answers + 1] = { path = template, method = method:lower(), status = tostring(answer.status), body = answer.json }
    end
    ask("GET", "/healthz", "/healthz")
    ask("GET", "/readyz", "/readyz")
    ask("GET", "/api/ate/status?device_hash=DEV-PRO", "/api/ate/status", { token = token })
    ask("GET", "/api/ate/status?device_hash=DEV-STARTER", "/api/ate/status", { token = service:token(service.starter.user) })
    ask("GET", "/api/ate/status?device_hash=DEV-STARTER", "/api/ate/status", { token = token })
    ask("GET", "/api/ate/status", "/api/ate/status", { token = token })
    ask("GET", "/api/ate/status?device_hash=DEV-PRO", "/api/ate/status")
    ask("GET", "/api/ate/status?device_hash=DEV-PRO", "/api/ate/status", { token = operator })
    for _, list in ipairs { "files", "history", "plans" } do
      ask("GET", "/api/ate/" .. list .. "?limit=1", "/api/ate/" .. list, { token = token })
    end
    ask("GET", "/api/ate/license?device_hash=DEV-PRO", "/api/ate/license", { token = token })
    for _ = 1, 2 do
      ask("POST", "/api/ate/generate", "/api/ate/generate", { token = token, body = { device_hash = "DEV-PRO" } })
    end
    ask("POST", "/api/ate/generate", "/api/ate/generate", { token = token, body = { device_hash = "DEV-MAX" } })
    for path, methods in pairs(document.paths) do
      if path:find "^/api/ops/" and methods.get and not path:find "{" then
        ask("GET", path, path, { token = operator })
        ask("GET", path, path, { token = token })
      end
    end
    judge(answers)
  end)

  it("lists what the server answers, whatever is asked", function()
    local token, operator = service:token(service.pro.user), service:operator()
    local file = "/api/ate/download/00000000-0000-4000-8000-000000000000"
    local function check(method, path, template, options)
      local answer = service:request(method, path, options)
      local name = ("%s %s %d"):format(method, path, answer.status)
      local it = assert(document.paths[template][method:lower()], name)
      assert.is_table(it.responses[tostring(answer.status)], name)
      return answer.status
    end
    for path, methods in pairs(document.paths) do
      assert.equal(methods.get ~= nil, methods.head ~= nil, path)
      local at = path:gsub("{id}", "00000000-0000-4000-8000-000000000000")
      -- A GET of the events would not end.
      for _, method in ipairs(not methods.get and {} or path == "/api/ate/events" and { "HEAD" } or { "HEAD", "GET" }) do
        for _, who in ipairs { token, operator, "nonsense", false } do
          check(method, at, path, { token = who or nil })
          check(method, at .. "?nonsense=1", path, { token = who or nil })
          check(method, at .. "?" .. ("x"):rep(20000), path, { token = who or nil })
        end
      end
    end
    assert.equal(404, check("GET", file, "/api/ate/download/{id}", { token = token }))
    assert.equal(404, check("HEAD", file, "/api/ate/download/{id}", { token = token }))
    assert.equal(413, check("POST", "/api/ate/generate", "/api/ate/generate",
      { token = token, body = { device_hash = ("x"):rep(100000) } }))
    assert.equal(200, check("GET", "/metrics", "/metrics"))
    assert.is_table(document.paths["/metrics"].get.responses["403"])
    for _, methods in pairs(document.paths) do
      for _, it in pairs(methods) do
        assert.is_table(it.responses["500"])
        assert.equal(it.requestBody ~= nil, it.responses["413"] ~= nil)
      end
    end
  end)

  it("has every route of the API, each with what it needs", function()
    local names, count = {}, 0
    for path, methods in pairs(document.paths) do
      for _, it in pairs(methods) do
        count = count + 1
        assert.is_nil(names[it.operationId], it.operationId)
        names[it.operationId] = true
        assert(it.summary and it.responses, path)
        for name in path:gmatch "{(.-)}" do
          local found = false
          for _, parameter in ipairs(it.parameters) do
            found = found or parameter.name == name and parameter["in"] == "path" and parameter.required
          end
          assert.is_true(found, path)
        end
      end
    end
    assert.is_true(count >= 10)
    for _, name in ipairs { "getStatus", "generate", "listFiles", "listDownloads", "listPlans", "getLicense", "health", "ready",
      "openapi" } do
      assert.is_true(names[name], name)
    end
    assert.is_nil(document.paths["/dashboard"])
  end)
end)
