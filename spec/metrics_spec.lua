local format = require "metrics.format"
local metrics = require "metrics"
local program = require "spec.support.program"
local prometheus = require "spec.support.prometheus"
local registry = require "metrics.registry"
local signal = require "posix.signal"
local snapshot = require "metrics.snapshot"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local function parsed(reg)
  return prometheus.parse(reg:text())
end

describe("a counter", function()
  it("adds up for each label set, however the values are spelt", function()
    local reg = registry.new()
    local c = reg:counter("c_total", "Things.", { "route", "status" })
    c:add(1, { "/a", 200 })
    c:add(2, { "/a", "200" })
    c:add(nil, { "/b", 404 })
    local families = parsed(reg)
    assert.equal(3, prometheus.value(families, "c_total", { route = "/a", status = "200" }))
    assert.equal(1, prometheus.value(families, "c_total", { route = "/b", status = "404" }))
    assert.equal(2, #families.c_total.samples)
    assert.equal("counter", families.c_total.kind)
  end)

  it("never falls", function()
    local reg = registry.new()
    local c = reg:counter("c_total", "Things.")
    c:add(5)
    c:add(-3)
    c:add(0 / 0)
    c:reach(4)
    assert.equal(5, prometheus.value(parsed(reg), "c_total"))
    c:reach(7)
    assert.equal(7, prometheus.value(parsed(reg), "c_total"))
  end)

  it("without labels is shown from the start", function()
    local reg = registry.new()
    reg:counter("c_total", "Things.")
    assert.equal(0, prometheus.value(parsed(reg), "c_total"))
  end)

  it("takes missing, odd and hostile label values", function()
    local reg = registry.new()
    local c = reg:counter("c_total", "Lines\nand \\ back.", { "a", "b" })
    c:add(1)
    c:add(1, { nil, "x" })
    c:add(1, { 0 / 0, true })
    c:add(1, { 'q"\\\n', "caf\xe9\0é" })
    local families = parsed(reg)
    assert.equal("Lines\\nand \\\\ back.", families.c_total.help)
    assert.equal(1, prometheus.value(families, "c_total", { a = "", b = "" }))
    assert.equal(1, prometheus.value(families, "c_total", { a = "", b = "x" }))
    assert.equal(1, prometheus.value(families, "c_total", { a = 'q"\\\n', b = "caf?\0??" }))
    assert.equal(4, #families.c_total.samples)
  end)

  it("holds a bounded number of label sets", function()
    local reg = registry.new()
    local c = reg:counter("c_total", "Things.", { "path" })
    for i = 1, 10000 do
      c:add(1, { "/" .. i })
    end
    local families = parsed(reg)
    assert.is_true(#families.c_total.samples <= 501)
    local total = 0
    for _, sample in ipairs(families.c_total.samples) do
      total = total + sample.value
    end
    assert.equal(10000, total, "what is not told apart is counted still")
    assert.equal(9500, prometheus.value(families, "c_total", { path = "other" }))
  end)
end)

describe("a histogram", function()
  it("counts into cumulative buckets", function()
    local reg = registry.new()
    local h = reg:histogram("h_seconds", "Time.", { "stage" }, { 0.1, 1 })
    for _, value in ipairs { 0.05, 0.1, 0.5, 1, 7, 0 / 0 } do
      h:observe(value, { "store" })
    end
    local families = parsed(reg)
    local function bucket(le)
      return prometheus.value(families, "h_seconds_bucket", { stage = "store", le = le })
    end
    assert.same({ 2, 4, 5 }, { bucket "0.1", bucket "1", bucket "+Inf" })
    assert.equal(5, prometheus.value(families, "h_seconds_count", { stage = "store" }))
    assert.is_true(math.abs(prometheus.value(families, "h_seconds_sum") - 8.65) < 1e-9)
  end)
end)

describe("a gauge", function()
  it("has the last value, infinite ones too", function()
    local reg = registry.new()
    local g = reg:gauge("g", "Now.", { "x" })
    g:set(3, { 1 })
    g:set(2.5, { 1 })
    g:set(math.huge, { 2 })
    local families = parsed(reg)
    assert.equal(2.5, prometheus.value(families, "g", { x = "1" }))
    assert.equal(math.huge, prometheus.value(families, "g", { x = "2" }))
  end)
end)

describe("a registry", function()
  it("refuses what is a mistake of ours", function()
    local reg = registry.new()
    reg:gauge("g", "Now.")
    assert.has_error(function() reg:gauge("g", "Again.") end)
    assert.has_error(function() reg:gauge("no name", "x") end)
    assert.has_error(function() reg:gauge("h", "x", { "le" }) end)
    assert.has_error(function() reg:gauge("i", "x", { "process" }) end)
  end)
end)

describe("a sample's line", function()
  it("is taken apart when it is one", function()
    assert.same({ "a", "", "1" }, { format.parse "a 1" })
    assert.same({ "a_b", [[x="q\"\\\n",y=""]], "+Inf" }, { format.parse [[a_b{x="q\"\\\n",y=""} +Inf]] })
    for _, line in ipairs { "", "a", "a  1", "1a 1", "a{} 1", "a{x=1} 1", 'a{x="1} 1', 'a{x="1"', 'a{x="1"} ', "a one",
      'a{x="1",} 1', 'a{x="\\z"} 1', 'a{x="1"}1', "a 0x10", "a 1 2" } do
      assert.is_nil((format.parse(line)), line)
    end
  end)
end)

describe("the processes of a service", function()
  local folder

  before_each(function()
    folder = program.folder()
  end)

  after_each(function()
    program.remove(folder)
  end)

  -- Runs f in a process of its own, which then stays until it is ended by the function that this returns.
  local function beside(f)
    local from, to = unistd.pipe()
    local spec = unistd.getpid()
    local pid = assert(unistd.fork())
    if pid == 0 then
      local ok = pcall(f)
      unistd.write(to, ok and "x" or "!")
      while unistd.getppid() == spec do
        unistd.sleep(1)
      end
      unistd._exit(0)
    end
    assert.equal("x", unistd.read(from, 1))
    unistd.close(from)
    unistd.close(to)
    return function()
      signal.kill(pid, signal.SIGKILL)
      wait.wait(pid)
    end, pid
  end

  local function with_count(n)
    local reg = registry.new()
    reg:counter("c_total", "Things.", { "x" }):add(n, { "a" })
    reg:histogram("h_seconds", "Time.", nil, { 1 }):observe(n)
    return reg:text()
  end

  local function collect(text)
    return prometheus.parse(snapshot.collect(folder, "front 1", text or with_count(1)))
  end

  it("are told apart by a label, in one family", function()
    local stop = beside(function()
      assert(snapshot.save(folder, "worker 1", with_count(5)))
    end)
    local families = collect()
    assert.equal(1, prometheus.value(families, "c_total", { process = "front 1", x = "a" }))
    assert.equal(5, prometheus.value(families, "c_total", { process = "worker 1", x = "a" }))
    assert.equal(2, prometheus.value(families, "h_seconds_bucket", { process = "worker 1", le = "+Inf" })
      + prometheus.value(families, "h_seconds_bucket", { process = "front 1", le = "+Inf" }))
    stop()
  end)

  it("leave nothing behind when they are gone", function()
    local stop = beside(function()
      assert(snapshot.save(folder, "worker 1", with_count(5)))
    end)
    stop()
    assert.is_nil(prometheus.value(collect(), "c_total", { process = "worker 1" }))
    assert.same({}, { (io.popen("ls " .. folder):read "l") })
  end)

  it("may bear one name for a while, after a reload", function()
    local stops, pids = {}, {}
    for i = 1, 2 do
      stops[i], pids[i] = beside(function()
        assert(snapshot.save(folder, "front 1", with_count(10 + i)))
      end)
    end
    local families = collect()
    assert.equal(1, prometheus.value(families, "c_total", { process = "front 1" }))
    for i = 1, 2 do
      assert.equal(10 + i, prometheus.value(families, "c_total", { process = ("front 1 (%d)"):format(pids[i]) }))
      stops[i]()
    end
  end)

  it("do no harm by a broken snapshot, nor by one of another mind", function()
    local function write(name, text)
      local file = assert(io.open(folder .. "/" .. name, "w"))
      file:write(text)
      file:close()
    end
    local stop, pid = beside(function()
      local reg = registry.new()
      reg:gauge("c_total", "Something else.", { "x" }):set(-9, { "a" })
      reg:gauge("own", "Own."):set(4)
      assert(snapshot.save(folder, "odd", reg:text()))
    end)
    local head = ("# process %d %s broken\n"):format(pid, snapshot.started(pid))
    local good = "# HELP b x\n# TYPE b gauge\n"
    for i, text in ipairs { "", head, head .. good .. "b 1\n", head .. good .. "b one\n# whole\n",
      head .. "b 1\n# whole\n", head .. good .. good .. "# whole\n", head .. "# HELP b x\nb 1\n# whole\n",
      head .. good .. 'b{x="} 1\n# whole\n', head .. good .. "c 1\n# whole\n", ("x"):rep(100), "\0\255\n",
      good .. "b 1\n# whole\n", "# process 0 0 x\n" .. good .. "b 1\n# whole\n" } do
      write(("broken.%d.prom"):format(100000 + i), text)
    end
    assert(os.execute(("mkdir %s/folder.12.prom"):format(folder)))
    local families = collect()
    assert.is_nil(families.b)
    assert.equal(4, prometheus.value(families, "own", { process = "odd" }))
    assert.is_nil(prometheus.value(families, "c_total", { process = "odd" }))
    stop()
  end)

  it("do not need the folder", function()
    assert.equal(1, prometheus.value(prometheus.parse(snapshot.collect(nil, "x", with_count(1))), "c_total"))
    assert.equal(1, prometheus.value(prometheus.parse(snapshot.collect("/nonexistent", "x", with_count(1))), "c_total"))
    local ok, message = snapshot.save("/nonexistent", "x", with_count(1))
    assert.is_nil(ok)
    assert.matches("/nonexistent", message, 1, true)
  end)
end)

describe("the product's metrics", function()
  it("are sound, whatever has been counted", function()
    metrics.http("/api/ate/download/{id}", "GET", 206, 0.02, 1000)
    metrics.http(nil, "!!", 404, 0.001)
    metrics.worker_event("completed", {}, { timing = { build = 12, store = 30 }, verdict = "ok" })
    metrics.worker_event("failed", {}, "no", "jail_memory")
    metrics.worker_event("failed", {}, "no")
    metrics.worker_event("lost", {}, "no")
    metrics.worker_event("building", {})
    metrics.storage("head", 0.001)
    local families = prometheus.parse(metrics.collect(metrics.family("atelier_queue_jobs", "Jobs.", { "state" },
      { { 3, "queued" }, { 0, 'odd"' } })))
    local function value(name, labels)
      return prometheus.value(families, name, labels)
    end
    assert.equal(1, value("atelier_http_requests_total", { route = "/api/ate/download/{id}", status = "206" }))
    assert.equal(1, value("atelier_http_requests_total", { route = "none", method = "other", status = "404" }))
    assert.equal(1000, value("atelier_http_response_bytes_total"))
    assert.equal(1, value("atelier_jobs_total", { result = "failed", code = "jail_memory" }))
    assert.equal(1, value("atelier_jail_runs_total", { verdict = "ok" }))
    assert.equal(1, value("atelier_storage_seconds_count", { operation = "put" }))
    assert.equal(3, value("atelier_queue_jobs", { state = "queued" }))
    assert.is_nil(families.atelier_queue_jobs.samples[1].labels.process)
    assert.is_true(value "process_resident_memory_bytes" > 1e6)
    assert.is_true(value "process_start_time_seconds" > 1.5e9)
    assert.equal(1, value("atelier_build_info", { version = require("atelier.host").version }))
  end)

  it("are saved where the service says, and nowhere else", function()
    assert.is_true(metrics.save())
    local folder = program.folder()
    stdlib.setenv("ATELIER_RUN", folder)
    stdlib.setenv("ATELIER_PROCESS", "front 7")
    assert.is_true(metrics.save(60))
    assert.is_true(metrics.save(60))
    local name = io.popen("ls " .. folder):read "a"
    assert.equal(("front_7.%d.prom\n"):format(unistd.getpid()), name)
    assert.equal("front 7", prometheus.parse(metrics.collect()).process_start_time_seconds.samples[1].labels.process)
    stdlib.setenv("ATELIER_RUN", nil)
    stdlib.setenv("ATELIER_PROCESS", nil)
    program.remove(folder)
  end)
end)
