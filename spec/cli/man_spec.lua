local config = require "config"
local program = require "spec.support.program"

describe("atelier man", function()
  local page

  setup(function()
    local code, text = program.run { "man" }
    assert.equal(0, code)
    page = text
  end)

  -- As a reader sees it.
  local function has(text, words)
    assert.is_truthy(text:find(words, 1, true), words)
  end

  local function rendered(options)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(page)
    file:close()
    local code, text, complaints = program.shell(("groff -man -Kutf8 -Tutf8 %s %s"):format(options, path))
    os.remove(path)
    assert.equal(0, code, complaints)
    -- Bold is written twice, over a backspace; some write colours instead.
    text = text:gsub("[^\128-\191][\128-\191]*\8", ""):gsub("\27%[%d*m", "")
    return text, complaints
  end

  it("renders without a warning", function()
    local text, complaints = rendered "-ww -rLL=100n"
    assert.equal("", complaints)
    has(text, "ATELIER(1)")
    for _, title in ipairs { "NAME", "SYNOPSIS", "COMMANDS", "CONFIGURATION", "ENVIRONMENT", "FILES", "SIGNALS", "EXIT STATUS" } do
      has(text, "\n" .. title .. "\n")
    end
  end)

  it("has every command with its options, as the help has them", function()
    local text = rendered("-rLL=2000n"):gsub("%s+", " ")
    local _, help = program.run { "--help" }
    local count = 0
    for name in help:gmatch "\n   ([%l]+) " do
      count = count + 1
      local code, usage = program.run { name, "--help" }
      assert.equal(0, code, name)
      usage = usage:match "^Usage: (.-)\n\n":gsub("%s+", " "):gsub(" %[%-h%]", "")
      has(text, usage)
    end
    assert.is_true(count > 15)
    for option in help:gmatch "%-%-%l+" do
      has(text, option)
    end
  end)

  it("has every key of the configuration, and no secret's value", function()
    local text = rendered("-rLL=2000n"):gsub("%s+", " ")
    for _, key in ipairs(config.keys) do
      has(text, " " .. key[1] .. " ")
      if key[4] then
        has(text, " " .. key[4] .. " ")
      end
    end
  end)
end)
