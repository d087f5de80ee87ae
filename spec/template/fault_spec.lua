local fault = require "template.fault"
local folders = require "spec.support.template_folder"
local outline = require "template.outline"
local survey = require "template.survey"

describe("an outline", function()
  it("tells where each key and value stands", function()
    local text = '{"a": [1, {"b": "x\\"]", "c": [[]]}], "d": null}'
    local found = outline.read(text)
    local function at(place) return text:sub(place, place + 2) end
    assert.equal('"a"', at(found.keys["a"]))
    assert.equal("[1,", at(found.values["a"]))
    assert.equal('"x\\', at(found.values["a[2].b"]))
    assert.equal("[[]", at(found.values["a[2].c"]))
    assert.equal("nul", at(found.values["d"]))
    assert.equal(1, found.values[""])
  end)

  it("comes to an end, whatever the text", function()
    for _, text in ipairs { "", "{", "[", '{"', '{"a', '{"a"', '{"a":', "[1 2", "[,,,]", "{{{{", '"\\', "]]]", ("["):rep(5000),
      ('{"a":'):rep(5000), "[" .. ('"'):rep(99), "\0", '{a:1}' } do
      assert.is_table(outline.read(text))
      assert.is_table(outline.read(text .. "}"))
    end
  end)
end)

describe("a fault", function()
  it("is what a diagnosis says, taken apart and put together again", function()
    local text = "a.lua:2:3: bad\n  x = = 1\n    ^~\n  write one\nb.json: missing\nc.lua:4: what (in the rendered text)"
    local list = fault.parse("prefix: " .. text, "prefix: ")
    assert.equal(3, #list)
    assert.same({ file = "a.lua", line = 2, column = 3, message = "bad", excerpt = { "x = = 1", "  ^~" }, hint = "write one" },
      list[1])
    assert.same({ file = "b.json", message = "missing" }, list[2])
    assert.same({ file = "c.lua", line = 4, message = "what (in the rendered text)" }, list[3])
    local again = {}
    for i, f in ipairs(list) do again[i] = fault.format(f) end
    assert.equal(text, table.concat(again, "\n"))
  end)

  it("is UTF-8, whatever it is about", function()
    for text, expected in pairs { ["é"] = "é", ["a\xffb\xc3"] = "a\\xffb\\xc3", ["\x80\x80é"] = "\\x80\\x80é", [""] = "" } do
      assert.equal(expected, fault.plain(text))
    end
    local set = fault.set()
    set:add { { file = "\xff", message = "\xfe", hint = "\xfd", excerpt = { "\xfc" } } }
    assert.equal("\\xff: \\xfe\n  \\xfc\n  \\xfd", fault.format(set:list()[1]))
  end)

  it("is told once, with all plans that have it", function()
    local set = fault.set()
    set:add({ { file = "b.lua", line = 1, message = "x" } }, "pro")
    set:add({ { file = "b.lua", line = 1, message = "x" }, { file = "template.json", message = "y" } }, "max")
    set:add { { file = "a.lua", message = "z" } }
    local list = set:list()
    assert.equal("template.json a.lua b.lua", list[1].file .. " " .. list[2].file .. " " .. list[3].file)
    assert.same({ "pro", "max" }, list[3].plans)
  end)
end)

describe("a survey", function()
  after_each(folders.clean)

  local function told(folder)
    local list = {}
    for i, f in ipairs(survey.run(folder).faults) do list[i] = fault.format(f):match("^[^\n]*") end
    return list
  end

  it("finds nothing wrong with what is right", function()
    local looked = survey.run("templates/smartgram.at/")
    assert.same({}, looked.faults)
    assert.same({}, looked.warnings)
    assert.equal("smartgram", looked.template.name)
  end)

  it("tells of the manifest, the files, their texts and strays at once", function()
    local folder = folders.make { ["main.lua"] = "x = = 1", ["b.json"] = "[", ["stray.txt"] = "", ["sub/stray.lua"] = "",
      ["template.json"] = [[{
  "name": "N", "version": 1, "colour": 2,
  "file_structure": [
    {"file": "main.lua", "type": "lua", "requird": true},
    {"file": "b.json", "type": "json"},
    {"file": "gone.lua", "type": "lua"},
    {"file": "pipe.lua", "type": "lua"},
    {"file": "link.lua", "type": "lua"},
    {"file": "sub", "type": "text"}
  ]
}]] }
    os.execute(("mkfifo '%s/pipe.lua' && ln -s main.lua '%s/link.lua'"):format(folder, folder))
    assert.same({
      'template.json:2:11: name: "N": 1 to 64 of a-z, 0-9, _ and - expected',
      "template.json:2:27: version: a string expected, got an integer",
      'template.json:2:30: unknown key "colour" (known: container, description, file_structure, name, required_variables, '
        .. "runtime, version)",
      'template.json:4:41: file_structure[1]: unknown key "requird" (known: file, required, tool, type)',
      "b.json:1:2: the text ends too early: expected a value or ]",
      "gone.lua: missing",
      "link.lua: a symbolic link, not a regular file",
      "main.lua:1:5: unexpected symbol near '='",
      "pipe.lua: a pipe, not a regular file",
      "stray.txt: a stray file: the manifest does not list it",
      "sub: a folder, not a regular file",
    }, told(folder))
  end)

  it("looks at every file even when one cannot be read", function()
    local folder = folders.make { ["a.lua"] = "x x", ["b.lua"] = "\xff", ["c.lua"] = "y y", ["d.lua"] = "{{a}}b" }
    local list = told(folder)
    assert.equal(4, #list)
    assert.matches("^a.lua:1:", list[1])
    assert.matches("^b.lua:1:1: not UTF%-8", list[2])
    assert.matches("^c.lua:1:", list[3])
  end)

  it("tells where a manifest is no JSON, or has a key twice", function()
    assert.matches("^template.json:2:1: ", told(folders.make { ["template.json"] = '{"name":\n}' })[1])
    local twice = told(folders.make { ["template.json"] = '{"name": "a",\n "name": "b"}' })
    assert.equal(1, #twice)
    assert.matches("^template.json:[12]:%d+: .*duplicate", twice[1])
    assert.same({ "/nonexistent: No such file or directory" }, told "/nonexistent")
    local empty = folders.make { ["x.lua"] = "" }
    os.remove(empty .. "/template.json")
    assert.same({ "template.json: missing" }, told(empty))
  end)

  it("does not wait for a device, nor read what is too large", function()
    local folder = folders.make { ["main.lua"] = "x x", ["big.lua"] = "" }
    os.execute(("truncate -s 100M '%s/big.lua'"):format(folder))
    os.execute(("mknod '%s/zero.lua' c 1 5 2>/dev/null"):format(folder))
    local list = told(folder)
    assert.equal("big.lua: larger than 16777216 bytes", list[1])
    assert.matches("^main.lua:1:", list[2])
  end)
end)
