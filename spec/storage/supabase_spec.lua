local contract = require "spec.storage.contract"
local crypto = require "atelier.crypto"
local cutter = require "spec.support.cutter"
local growing = require "spec.storage.growing"
local program = require "spec.support.program"
local stand_in = require "spec.support.supabase"
local supabase = require "storage.supabase"

local KEY <const> = stand_in.KEY

-- The server is a strict stand-in, made from the recorded answers of the real one.
describe("storage.supabase", function()
  local server, url, dir

  setup(function()
    dir = program.folder()
    server = stand_in.start()
    url = server.url
  end)

  teardown(function()
    server:stop()
    program.remove(dir)
  end)

  local function control(...)
    return server:control(...)
  end

  before_each(function()
    control "/calm"
    control("/limit", 50e6 // 1 | 0)
  end)

  local function open(settings)
    local config = { state_dir = dir, supabase_url = url, supabase_service_role_key = KEY, supabase_bucket = "ate-files" }
    for name, value in pairs(settings or {}) do
      config[name] = value
    end
    return assert(supabase.open(config))
  end

  contract.test({ it = it, before_each = before_each, after_each = after_each }, open)

  growing.test({ it = it }, open)

  it("sends what is cut while it is being written once more, from its beginning", function()
    local store <close> = open()
    local key, path, count = contract.new_key(), os.tmpname(), 0
    local file, piece = assert(io.open(path, "wb")), ("x"):rep(1 << 20)
    file:setvbuf "no"
    control("/fault", { times = 1, method = "POST", cut = 3000000 })
    assert.is_true(contract.put(store, key, { path = path, size = 8 * #piece, state = function()
      if count < 8 then
        count = count + 1
        file:write(piece)
        return nil
      end
      file:close()
      return true, contract.sha256(piece:rep(8))
    end }, {}))
    assert.equal(contract.sha256(piece:rep(8)), contract.sha256(contract.read_all(store, key)))
  end)

  it("makes its bucket, private, and again when it vanishes", function()
    local store <close> = open()
    for _ = 1, 2 do
      control "/drop-buckets"
      assert.is_true(contract.put(store, contract.new_key(), { "x" }, {}))
      local bucket = control("/seen").buckets[1]
      assert.same({ "ate-files", false, 1 }, { bucket.name, bucket.public, bucket.objects })
    end
    control "/drop-buckets"
    assert.equal("no_bucket", select(3, store:head(contract.new_key())))
    assert.same({}, (store:list "generated/"))
    assert.equal("no_bucket", select(3, store:delete { contract.new_key() }))
  end)

  it("sends the key as its form asks, and as it is told", function()
    for form, wanted in pairs { auto = { true, true }, both = { true, true }, bearer = { true, false } } do
      local store <close> = open { supabase_header = form }
      control "/seen"
      assert.is_true(contract.put(store, contract.new_key(), { "x" }, {}))
      local first = control("/seen").seen[1]
      assert.same(wanted, { first.authorization, first.apikey })
    end
    local store <close> = open { supabase_header = "apikey" }
    assert.is_nil((contract.put(store, contract.new_key(), { "x" }, {})))
  end)

  it("maps errors by their code, whatever the status", function()
    local store <close> = open()
    control("/limit", 10)
    assert.equal("too_large", select(3, contract.put(store, contract.new_key(), { "more than ten" }, {})))
    control("/limit", 1000)
    for _, case in ipairs {
      { { status = 400, body = '{"statusCode":"403","error":"Unauthorized","message":"x","code":"AccessDenied"}' }, "denied" },
      { { status = 400, body = '{"statusCode":"403","error":"Unauthorized","message":"\\"exp\\" claim"}' }, "denied" },
      { { status = 415, body = '{"statusCode":"415","message":"mime type not supported","code":"InvalidMimeType"}' },
        "denied" },
      { { status = 400, body = "<html>Bad Request</html>" }, "unavailable" },
      { { status = 200, body = "<html>a proxy's page</html>", method = "GET" }, "unavailable" },
    } do
      case[1].times = 100
      control("/fault", case[1])
      local none, message, code = contract.put(store, contract.new_key(), { "x" }, {})
      assert.is_nil(none)
      assert.equal(case[2], code, message)
      assert.is_nil(message:find(KEY, 1, true))
      control "/calm"
    end
  end)

  it("tries again what a moment later may go well, and heeds Retry-After", function()
    local store <close> = open()
    for _, fault in ipairs {
      { status = 503, body = "<html>Service Unavailable</html>" }, { status = 429, headers = { ["retry-after"] = "1" } },
      { status = 500, body = '{"statusCode":"500","error":"internal","code":"InternalError"}' }, { cut = 0 },
    } do
      local key = contract.new_key()
      fault.times, fault.method = 2, "POST"
      control("/fault", fault)
      assert.is_true(contract.put(store, key, { "bytes" }, { sha256 = contract.sha256 "bytes" }))
      assert.equal("bytes", contract.read_all(store, key))
    end
    control("/fault", { status = 503, times = 100 })
    assert.equal("unavailable", select(3, contract.put(store, contract.new_key(), { "x" }, {})))
  end)

  it("survives an upload that is reset at any byte, and leaves nothing of it", function()
    local store <close> = open()
    local bytes = ("0123456789"):rep(30000)
    for _, cut in ipairs { 1, 100, 65536, 150000, 299999, 300000 } do
      local key = contract.new_key "cut"
      control("/fault", { cut = cut, times = 1, method = "POST" })
      assert.is_true(contract.put(store, key, { bytes }, { sha256 = contract.sha256(bytes) }))
      assert.equal(300000, assert(store:head(key)).size)
    end
  end)

  it("knows its own object when the answer was lost", function()
    local store <close> = open()
    local key = contract.new_key()
    control("/fault", { lost = true, times = 1, method = "POST" })
    assert.is_true(contract.put(store, key, { "bytes" }, { sha256 = contract.sha256 "bytes" }))
    assert.equal("exists", select(3, contract.put(store, key, { "other" }, { sha256 = contract.sha256 "other" })))
  end)

  it("does not believe a store that only says that it has stored", function()
    local store <close> = open()
    control("/fault", { status = 200, body = '{"Key":"k","Id":"i"}', times = 1, method = "POST" })
    local none, message, code = contract.put(store, contract.new_key(), { "bytes" }, {})
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("confirmed it, and then", message, 1, true)
  end)

  it("sends nothing of what is larger than it may be", function()
    local store <close> = open { supabase_max_bytes = 10 }
    local key = contract.new_key()
    assert.is_true(contract.put(store, key, { "ten bytes!" }))
    control "/seen"
    local none, message, code = contract.put(store, contract.new_key(), { "eleven bytes" })
    assert.is_nil(none)
    assert.equal("too_large", code)
    assert.matches("12 bytes, and supabase_max_bytes allows 10", message, 1, true)
    assert.same({}, control("/seen").seen)
  end)

  it("is read from through a proxy that knows no ranges, as long as that fits into memory", function()
    local proxy = cutter.start(url)
    finally(function()
      proxy:stop()
    end)
    local store <close> = open { supabase_url = proxy.url }
    local small, large = contract.new_key(), contract.new_key()
    local text = crypto.random((2 << 20) + 10)
    assert.is_true(contract.put(store, small, { text }))
    assert.is_true(contract.put(store, large, { ("z"):rep(17 << 20) }))
    proxy:rules { { match = "GET /storage/v1/object/ate-files", swap = { "\r\nrange: [^\r]*", "" }, times = 100 } }
    assert.equal(contract.sha256(text), contract.sha256(contract.read_all(store, small)))
    local reader = assert(store:get(large))
    local none, message, code = reader:read()
    assert.is_nil(none)
    assert.equal("unavailable", code, message)
  end)

  it("lists page by page", function()
    local store <close> = open()
    local prefix, tickets = "generated/pages-" .. os.time() .. "/", {}
    for i = 1, 1100 do
      tickets[i] = assert(store:put(("%s%05d"):format(prefix, i), { "x" }, {}))
    end
    for _, ticket in ipairs(tickets) do
      assert.is_true(store:wait(ticket))
    end
    local first = assert(store:list(prefix))
    assert.equal(1000, #first)
    local second = assert(store:list(prefix, first[1000].key))
    assert.equal(100, #second)
    assert.equal(prefix .. "01100", second[100].key)
    assert.equal(prefix .. "00501", store:list(prefix, prefix .. "00500")[1].key)
  end)

  it("wants its settings", function()
    for _, name in ipairs { "supabase_url", "supabase_service_role_key" } do
      local config = { state_dir = dir, supabase_url = url, supabase_service_role_key = KEY, supabase_bucket = "b" }
      config[name] = nil
      assert.equal(("storage: supabase: %s is not set"):format(name), (select(2, supabase.open(config))))
    end
    assert.equal("config", select(3, supabase.open { supabase_url = "ftp://x", supabase_service_role_key = KEY }))
  end)
end)
