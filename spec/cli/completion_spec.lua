local program = require "spec.support.program"

describe("atelier completion bash", function()
  local script, folder

  setup(function()
    folder = program.folder()
    script = folder .. "/completion"
    local code, text = program.run { "completion", "bash" }
    assert.equal(0, code)
    local file = assert(io.open(script, "w"))
    file:write(text)
    file:close()
    assert(os.execute(("touch '%s/a file' %s/other"):format(folder, folder)))
  end)

  teardown(function()
    program.remove(folder)
  end)

  -- What bash offers for the last word, in a shell that has loaded the script as a person's would.
  local function offered(...)
    local quoted = {}
    for i, word in ipairs { ... } do
      quoted[i] = "'" .. word .. "'"
    end
    local code, text, complaints = program.shell(([[cd '%s' && bash --norc -u -c '. ./completion; complete -p atelier >/dev/null || exit 9
      COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _atelier; printf "%%s\n" "${COMPREPLY[@]+"${COMPREPLY[@]}"}"' bash %s]])
      :format(folder, table.concat(quoted, " ")))
    assert.equal(0, code, complaints)
    assert.equal("", complaints)
    local words = {}
    for word in text:gmatch "[^\n]+" do
      words[#words + 1] = word
    end
    return words
  end

  it("offers commands, and actions of a command", function()
    assert.same({ "keys" }, offered("atelier", "ke"))
    assert.same({ "new", "list", "rotate" }, offered("atelier", "keys", ""))
    assert.same({ "list" }, offered("atelier", "queue", "l"))
    assert.same({}, offered("atelier", "nonsense-"))
    local all = offered("atelier", "")
    local _, help = program.run { "--help" }
    for _, name in ipairs(all) do
      assert.matches("\n   " .. name .. " ", help, 1, true)
    end
    assert.is_true(#all > 15)
  end)

  it("offers options where the command is known", function()
    assert.same({ "--signing" }, offered("atelier", "keys", "rotate", "--s"))
    assert.same({ "--license", "--license-file" }, offered("atelier", "open", "x.ate", "--li"))
    assert.same({ "--extract" }, offered("atelier", "open", "--device", "keys", "--ex"))
  end)

  it("offers values: choices, files, or nothing", function()
    assert.same({ "queued" }, offered("atelier", "queue", "list", "--status", "q"))
    assert.same({ "bash" }, offered("atelier", "completion", ""))
    assert.same({ "a file" }, offered("atelier", "open", "a"))
    assert.same({ "other" }, offered("atelier", "open", "--device", "H", "--license-file", "o"))
    assert.same({}, offered("atelier", "open", "--device", ""))
    assert.same({ "other" }, offered("atelier", "jail", "a file", "o"))
  end)

  it("is for bash only", function()
    assert.equal(2, (program.run { "completion", "csh" }))
    assert.equal(2, (program.run { "completion" }))
  end)
end)
