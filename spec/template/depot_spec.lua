local contract = require "spec.storage.contract"
local depot = require "template.depot"
local program = require "spec.support.program"
local stat = require "posix.sys.stat"
local storage = require "storage"
local template = require "template"

describe("template.depot", function()
  local dir, store, shipped

  before_each(function()
    dir = program.folder()
    store = assert(storage.open { storage_dir = dir .. "/store", storage_threads = 4 })
    shipped = assert(template.load "templates/smartgram.at")
  end)

  after_each(function()
    store:close()
    program.remove(dir)
  end)

  local function fetch(hash)
    return depot.fetch(store, { name = "smartgram", hash = hash or shipped.hash }, dir .. "/cache")
  end

  local function damage(path)
    local file = assert(io.open(path, "r+b"))
    file:write "damaged"
    file:close()
  end

  it("publishes every file, once, and leaves the operator's where they are", function()
    assert.equal(#shipped.files + 1, depot.push(store, shipped))
    assert.equal(0, depot.push(store, shipped))
    assert.equal(shipped.hash, template.load("templates/smartgram.at").hash)
    assert.equal(#shipped.files + 1, #store:list("templates/smartgram.at/" .. shipped.hash .. "/"))
  end)

  it("fetches what was published, and then has it", function()
    depot.push(store, shipped)
    local fetched = assert(fetch())
    assert.equal(shipped.hash, fetched.hash)
    assert.equal(#shipped.files, #fetched.files)
    for _, entry in ipairs(store:list "templates/") do
      store:delete { entry.key }
    end
    assert.equal(shipped.hash, assert(fetch()).hash)
  end)

  it("notices what is damaged in the store, and on the disk", function()
    depot.push(store, shipped)
    local fetched = assert(fetch())
    damage(fetched.dir .. "/main.lua")
    assert.equal(shipped.hash, assert(fetch()).hash)
    damage(("%s/store/templates/smartgram.at/%s/main.lua"):format(dir, shipped.hash))
    assert.is_not_nil(fetch())
    damage(fetched.dir .. "/main.lua")
    local none, message, code = fetch()
    assert.is_nil(none)
    assert.equal("template_version", code)
    assert.matches("not the published ones", message, 1, true)
    assert.equal("", io.popen(("ls -A '%s/cache' | grep draft"):format(dir)):read "a")
  end)

  it("mends what is damaged in the store, or gone, when it is published again", function()
    depot.push(store, shipped)
    damage(("%s/store/templates/smartgram.at/%s/main.lua"):format(dir, shipped.hash))
    assert.is_nil((fetch()))
    assert.equal(1, depot.push(store, shipped))
    store:delete { ("templates/smartgram.at/%s/config.json"):format(shipped.hash) }
    assert.equal("not_found", select(3, depot.look(store, { name = "smartgram", hash = shipped.hash })))
    assert.equal(1, depot.push(store, shipped))
    assert.equal(#shipped.files + 1, depot.look(store, { name = "smartgram", hash = shipped.hash }))
    assert.equal(shipped.hash, assert(fetch()).hash)
  end)

  it("names the file that is not what the store says of it, and the folder that cannot be made", function()
    depot.push(store, shipped)
    local teller = { get = function(_, key)
      local file = assert(store:get(key))
      return setmetatable({ sha256 = key:find "main%.lua$" and ("0"):rep(64) or nil, read = function(_, bytes)
        return file:read(bytes)
      end }, { __close = function() file:close() end })
    end }
    local none, message, code = depot.fetch(teller, { name = "smartgram", hash = shipped.hash }, dir .. "/cache")
    assert.is_nil(none)
    assert.equal("template_version", code)
    assert.matches("/main.lua: its bytes are not those", message, 1, true)
    assert(io.open(dir .. "/file", "w")):close()
    none, message, code = depot.fetch(store, { name = "smartgram", hash = shipped.hash }, dir .. "/file/cache")
    assert.is_nil(none)
    assert.equal("unavailable", code)
    assert.matches("Not a directory", message, 1, true)
  end)

  it("leaves the files of a process that was first where they are", function()
    depot.push(store, shipped)
    local first, number
    local second = assert(depot.fetch({ get = function(_, key)
      if not first then
        first = assert(fetch())
        number = stat.stat(first.dir .. "/main.lua").st_ino
      end
      return store:get(key)
    end }, { name = "smartgram", hash = shipped.hash }, dir .. "/cache"))
    assert.equal(first.dir, second.dir)
    assert.equal(number, stat.stat(first.dir .. "/main.lua").st_ino)
    assert.equal("", io.popen(("ls -A '%s/cache' | grep draft"):format(dir)):read "a")
  end)

  it("says that it was never published", function()
    local none, message, code = fetch(("0"):rep(64))
    assert.is_nil(none)
    assert.equal("not_found", code)
    assert.matches("template smartgram: from the store", message, 1, true)
  end)

  it("refuses a manifest that leads out of the folder", function()
    local text = '{"name": "smartgram", "version": "1", "file_structure": [{"file": "../../x", "type": "lua"}]}'
    local key = ("templates/smartgram.at/%s/template.json"):format(shipped.hash)
    assert.is_true(contract.put(store, key, { text }))
    assert.equal("template_version", select(3, fetch()))
  end)
end)
