local crypto = require "atelier.crypto"
local folders = require "spec.support.template_folder"
local json = require "atelier.json"
local kit = require "template.kit"
local template = require "template"
local zip = require "atelier.zip"

local function load(files, changes) return assert(template.load(folders.make(files, changes))) end

local function unpack(archive)
  local reader = assert(zip.open { data = archive })
  local texts, names = {}, {}
  for i, entry in ipairs(reader:entries()) do
    names[i] = entry.name
    texts[entry.name] = assert(reader:read(entry.name))
  end
  reader:close()
  return texts, names
end

local FILLER = ("function step(n)\n  return n + 1 -- one more\nend\n"):rep(400)
local BIG = crypto.hex(crypto.random(800000))
local VARS = { device_hash = "DEMO-001", plan_tools = json.array { "timeline", "unlimited" }, license_key = "K" }

local function listed(entries)
  local list = {}
  for i, entry in ipairs(entries) do list[i] = entry.name end
  return table.concat(list, " ")
end

describe("a kit", function()
  after_each(function()
    folders.clean()
    collectgarbage()
    collectgarbage()
    assert.equal(0, zip.live_handles())
  end)

  it("makes bundles that hold what the plan has, rendered", function()
    local loaded = load { ["main.lua"] = 'local d = "{{device_hash}}"\n' .. FILLER, ["timeline.lua"] = FILLER,
      ["follow.lua"] = FILLER, ["b.png"] = "\0\1", ["config.json"] = '{"tools": {{plan_tools}}}' }
    local made = assert(kit.new(loaded, VARS.plan_tools))
    assert.is_false(made.streamed)
    assert.same({ "timeline" }, made.tools_with_files)
    assert.same({ "unlimited" }, made.capabilities)
    local texts, names = unpack(assert(made:build(VARS)))
    assert.same({ "b.png", "config.json", "main.lua", "timeline.lua" }, names)
    assert.equal('local d = "DEMO-001"\n' .. FILLER, texts["main.lua"])
    assert.equal(FILLER, texts["timeline.lua"])
    assert.equal('{"tools": ["timeline", "unlimited"]}', texts["config.json"])
    assert.equal("\0\1", texts["b.png"])
    assert.same(texts["main.lua"], assert(made:check(VARS))["main.lua"])
  end)

  it("makes the same bytes from the same inputs", function()
    local files = { ["main.lua"] = 'local d = "{{device_hash}}"\n' .. FILLER, ["a.txt"] = "{{license_key}}" }
    local one, two = assert(kit.new(load(files), {})), assert(kit.new(load(files), {}))
    local first = one:build(VARS)
    assert.equal(first, one:build(VARS))
    assert.equal(first, two:build(VARS))
    assert.not_equal(first, one:build { device_hash = "DEMO-002", license_key = "K" })
    assert.equal(first, one:build(VARS))
  end)

  it("cuts texts wherever their variables stand", function()
    local wide = ("x"):rep(3000)
    for _, text in ipairs { "{{a}}", "{{a}}{{b}}", "{{a}}" .. wide, wide .. "{{a}}", wide .. "{{a}}" .. wide, wide .. "{{a}}{{b}}" .. wide .. "{{a}}",
      "s{{a}}" .. wide .. "m" .. "{{b}}" .. wide, "{{a}}short{{b}}" .. wide .. "{{a}}t", ("{{a}}" .. wide):rep(5), ("y"):rep(1023) .. "{{a}}" } do
      local made = assert(kit.new(load { ["t.txt"] = text }, {}))
      for _, vars in ipairs { { a = "", b = "" }, { a = "1", b = "22" }, { a = wide, b = wide } } do
        local expected = text:gsub("{{(.)}}", vars)
        assert.equal(expected, unpack(assert(made:build(vars)))["t.txt"])
      end
    end
  end)

  it("writes config.json where the template brings none", function()
    local made = assert(kit.new(load { ["main.lua"] = "", ["timeline.lua"] = "" }, VARS.plan_tools))
    local config = json.decode(unpack(made:build(VARS))["config.json"])
    assert.same({ device_hash = "DEMO-001", license_key = "K", plan_tools = { "timeline", "unlimited" }, tools = { "timeline" },
      capabilities = { "unlimited" } }, config)
    local archive, message, code = made:build { device_hash = "\xff" }
    assert.is_nil(archive)
    assert.matches("^config.json: ", message)
    assert.equal("template", code)
  end)

  it("names what is missing and what is wrong, and makes nothing", function()
    local loaded = load({ ["main.lua"] = 'local a = "{{device_hash}}" local b = "{{other}}"' }, { required_variables = { "device_hash", "plan" } })
    local made = assert(kit.new(loaded, {}))
    local archive, message, code = made:build {}
    assert.is_nil(archive)
    assert.equal("template sample: no value for the required variable device_hash, plan", message)
    assert.equal("template", code)
    archive, message = made:build { device_hash = "a", plan = "b" }
    assert.is_nil(archive)
    assert.matches("main.lua:1:40: unknown variable {{other}}", message, 1, true)
  end)

  it("is not made of a template with faults", function()
    local none, message, code = kit.new(load { ["a.lua"] = "x = {{y}}z", ["b.json"] = "[" }, {})
    assert.is_nil(none)
    assert.equal("template", code)
    assert.matches("a.lua:1:5:", message, 1, true)
    assert.matches("b.json:1:2:", message, 1, true)
    local loaded = load({ ["timeline.lua"] = "" }, { file_structure = { { file = "timeline.lua", type = "lua", required = true } } })
    none, message = kit.new(loaded, {})
    assert.is_nil(none)
    assert.equal("timeline.lua: required, but the plan lacks the tool timeline", message)
  end)

  it("ignores faults of files that the plan does not have", function()
    assert.truthy(kit.new(load { ["main.lua"] = "", ["follow.lua"] = "if" }, {}))
  end)

  it("streams large files from the disk", function()
    local folder = folders.make { ["main.lua"] = 'return "{{device_hash}}"', ["big.mp4"] = "", ["big.bin"] = BIG }
    folders.write(folder, "big.mp4", ("\1\2\3\4"):rep(400000))
    local made = assert(kit.new(assert(template.load(folder)), {}))
    assert.is_true(made.streamed)
    local path = folder .. "/spec.zip"
    assert.is_true(made:build_file(VARS, path))
    local reader = assert(zip.open(path))
    local methods = {}
    for _, entry in ipairs(reader:entries()) do methods[entry.name] = entry.method end
    assert.equal("store", methods["big.mp4"])
    assert.equal("store", methods["big.bin"])
    assert.equal("deflate", methods["main.lua"])
    assert.truthy(BIG == reader:read("big.bin"))
    assert.equal('return "DEMO-001"', reader:read("main.lua"))
    reader:close()

    local parts, size = made:layout(VARS)
    local whole = {}
    for i, part in ipairs(parts) do whole[i] = type(part) == "string" and part or io.open(part.path, "rb"):read("a") end
    whole = table.concat(whole)
    assert.equal(#whole, size)
    local laid_out = assert(zip.open { data = whole })
    assert.equal("config.json main.lua big.bin big.mp4", listed(laid_out:entries()))
    for _, entry in ipairs(laid_out:entries()) do assert.equal(methods[entry.name], entry.method) end
    assert.truthy(BIG == laid_out:read("big.bin"))
    assert.equal(("\1\2\3\4"):rep(400000), laid_out:read("big.mp4"))
    assert.equal('return "DEMO-001"', laid_out:read("main.lua"))
    laid_out:close()
    assert.is_true(made:unchanged())

    -- Other bytes of the same size and time are another file.
    assert(os.execute(("cd '%s' && head -c %d /dev/zero >other && touch -r big.bin other && mv other big.bin")
      :format(folder, #BIG)))
    assert.is_nil((made:unchanged()))
    folders.write(folder, "big.bin", "changed")
    assert.is_nil((made:unchanged()))
    local ok, message, code = made:build_file(VARS, path .. "2")
    assert.is_nil(ok)
    assert.equal("big.bin: changed on the disk since the template was read", message)
    assert.equal("template_version", code)
    assert.is_nil(io.open(path .. "2"))
  end)

  it("packs what deflates too well so that it opens", function()
    local zeros = ("\0"):rep(900000)
    local folder = folders.make { ["main.lua"] = ("-"):rep(900000), ["zeros.bin"] = zeros }
    local made = assert(kit.new(assert(template.load(folder)), {}))
    assert.is_false(made.streamed)
    local reader = assert(zip.open { data = assert(made:build(VARS)) })
    assert.truthy(zeros == reader:read "zeros.bin")
    reader:close()
  end)

  it("is remembered by contents and tools, in any order", function()
    local cache = kit.cache(2)
    local loaded = load { ["main.lua"] = "", ["timeline.lua"] = "", ["follow.lua"] = "" }
    local one = assert(cache:get(loaded, { "timeline", "follow" }))
    assert.equal(one, cache:get(loaded, { "follow", "timeline" }))
    assert.equal(one, cache:get(template.load(loaded.dir), { "follow", "timeline" }))
    local two = cache:get(loaded, { "timeline" })
    assert.not_equal(one, two)
    assert.equal(one, cache:get(loaded, { "timeline", "follow" }))
    cache:get(loaded, {})
    assert.equal(one, cache:get(loaded, { "timeline", "follow" }))
    assert.not_equal(two, cache:get(loaded, { "timeline" }))
    local none, _, code = cache:get(load { ["main.lua"] = "if" }, {})
    assert.is_nil(none)
    assert.equal("template", code)
  end)
end)
