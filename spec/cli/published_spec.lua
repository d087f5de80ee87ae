-- What is published stays as it was, whatever becomes of the folder that it was published from.
local json = require "atelier.json"
local postgres = require "postgres"
local program = require "spec.support.program"

describe("a published template", function()
  local state, out

  local function ask(words)
    words[#words + 1] = "--json"
    local code, text, err = program.run(words, { ATELIER_STATE = state, SERVE = "0" })
    local object, problem = json.decode(text)
    assert(object, ("%s\nstdout: %s\nstderr: %s"):format(problem, text, err))
    return code, object
  end

  setup(function()
    state, out = program.folder(), program.folder()
  end)

  teardown(function()
    assert(postgres.stop { dir = state .. "/postgres" })
    program.remove(state)
    program.remove(out)
  end)

  -- A bundle of pro, opened: its main.lua, and the file whose name no store would take as a key.
  local function build()
    program.shell(("rm -rf %s/x"):format(out))
    local code, made = ask { "generate", "--device", "DEMO-PRO-001", "--template", "elsewhere" }
    assert.equal(0, code, made.message)
    local _, licence = ask { "license", "--device", "DEMO-PRO-001" }
    code, made = ask { "open", made.path, "--device", "DEMO-PRO-001", "--license", licence.license_key, "-x", out .. "/x" }
    assert.equal(0, code, made.message)
    local function read(name)
      local file <close> = assert(io.open(out .. "/x/" .. name, "rb"))
      return file:read "a"
    end
    return read "main.lua", read "pictures/ホーム 1.txt"
  end

  it("is built from any folder, and after that was edited or is gone", function()
    assert.equal(0, (program.run({ "demo" }, { ATELIER_STATE = state, SERVE = "0" })))
    local folder = out .. "/elsewhere.at"
    assert(os.execute(("mkdir -p %s/pictures"):format(folder)))
    local function write(name, text)
      local file <close> = assert(io.open(folder .. "/" .. name, "wb"))
      file:write(text)
    end
    write("main.lua", "return 'first'\n")
    write("pictures/ホーム 1.txt", "a home")
    write("template.json", [[{"name": "elsewhere", "version": "1.0.0", "description": "x", "runtime": "autotouch",
      "file_structure": [{"file": "main.lua", "type": "lua", "required": true},
        {"file": "pictures/ホーム 1.txt", "type": "text", "required": true}], "required_variables": []}]])
    local code, published = ask { "template", "publish", folder }
    assert.equal(0, code, published.message)
    assert.same({ "return 'first'\n", "a home" }, { build() })
    write("main.lua", "return 'second'\n")
    assert.same({ "return 'first'\n", "a home" }, { build() })
    program.shell("rm -r " .. folder)
    assert.same({ "return 'first'\n", "a home" }, { build() })
    -- A copy of the store has the templates, too.
    assert.equal(0, (ask { "storage", "copy", "local", "local:" .. out .. "/moved" }))
    program.shell(("rm -r %s/files/templates %s/templates; mv %s/moved/templates %s/files/"):format(state, state, out,
      state))
    assert.same({ "return 'first'\n", "a home" }, { build() })
  end)
end)
