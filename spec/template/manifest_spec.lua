local manifest = require "template.manifest"

local GOOD = [[{"name": "smartgram", "version": "1.0.0", "file_structure": [
  {"file": "main.lua", "type": "lua", "required": true}, {"file": "images/a.png", "type": "binary", "tool": "timeline"}]}]]

local function refused(text, ...)
  local read, message, code = manifest.read(text)
  assert.is_nil(read, text)
  assert.equal("template", code)
  for _, wanted in ipairs { ... } do assert.truthy(message:find(wanted, 1, true), wanted .. "\nis not in:\n" .. message) end
  return message
end

local function with_entry(entry)
  return '{"name": "a", "version": "1", "file_structure": [' .. entry .. "]}"
end

describe("a manifest", function()
  it("is read, with what it may leave out", function()
    local read = assert(manifest.read(GOOD))
    assert.equal("smartgram", read.name)
    assert.equal("ate1", read.container)
    assert.same({}, read.required_variables)
    assert.equal("timeline", read.file_structure[2].tool)
  end)

  it("must be JSON, strictly", function()
    refused("", "template.json: ")
    refused('{"name": "a", "name": "b"}', "duplicate")
    refused("[]", "an object expected, got a list")
    refused("null", "an object expected, got null")
    refused('"x"', "an object expected, got a string")
    refused('{"name": "a\xff"}', "template.json: ")
    refused(GOOD .. "x", "template.json: ")
  end)

  it("says everything that is wrong at once", function()
    local message = refused('{"nam": "a", "version": 1, "file_structure": [{"file": "../x.lua", "type": "lua"}, 5]}',
      'unknown key "nam" (known: container, description, file_structure', "name is missing", "version: a string expected, got an integer",
      'file_structure[1] (../x.lua): file: ".." in the path', "file_structure[2]: an object expected, got an integer")
    assert.equal(5, select(2, message:gsub("template.json: ", "")))
  end)

  it("has names and versions of a form", function()
    for _, name in ipairs { "", "A", "a b", "a/b", "..", ("a"):rep(65), "é" } do
      refused(('{"name": "%s", "version": "1", "file_structure": [{"file": "m.lua", "type": "lua"}]}'):format(name), "name: ")
    end
    for _, version in ipairs { "", " 1", "1/2", ".1", ("1"):rep(21) } do
      refused(('{"name": "a", "version": "%s", "file_structure": [{"file": "m.lua", "type": "lua"}]}'):format(version), "version: ")
    end
    refused('{"name": "a", "version": "1", "container": "rar", "file_structure": [{"file": "m.lua", "type": "lua"}]}', "container: ")
    refused('{"name": "a", "version": "1", "runtime": "../x", "file_structure": [{"file": "m.lua", "type": "lua"}]}', "runtime: ")
    refused('{"name": "a", "version": "1", "description": 5, "file_structure": [{"file": "m.lua", "type": "lua"}]}', "description: ")
  end)

  it("lists files", function()
    refused('{"name": "a", "version": "1"}', "file_structure is missing")
    refused('{"name": "a", "version": "1", "file_structure": []}', "no file is listed")
    refused('{"name": "a", "version": "1", "file_structure": {}}', "a list expected, got an object")
    refused('{"name": "a", "version": "1", "file_structure": null}', "a list expected, got null")
    refused(with_entry '{"type": "lua"}', "file is missing")
    refused(with_entry '{"file": "a.lua"}', "type is missing")
    refused(with_entry '{"file": "a.lua", "type": "lau"}', "none of lua, json, text, binary")
    refused(with_entry '{"file": "a.lua", "type": "text"}', 'a .lua file has the type "lua"')
    refused(with_entry '{"file": "a.LUA", "type": "binary"}', 'a .lua file has the type "lua"')
    refused(with_entry '{"file": "a.json", "type": "text"}', 'a .json file has the type "json"')
    refused(with_entry '{"file": "a.lua", "type": "lua", "required": 1}', "true or false expected")
    refused(with_entry '{"file": "a.lua", "type": "lua", "tool": "a b"}', "no name of a tool")
    refused(with_entry '{"file": "a.lua", "type": "lua", "tools": "a"}', 'unknown key "tools"')
    refused(with_entry '{"file": "template.json", "type": "json"}', "not part of a bundle")
    refused(with_entry(('{"file": "a.lua", "type": "lua"},'):rep(10001) .. "1"), "more than 10000 files")
  end)

  it("names files that can be unpacked anywhere", function()
    for name, reason in pairs { [""] = "empty name", ["/etc/passwd"] = "absolute", ["../a.lua"] = '".."', ["a/../b.lua"] = '".."',
      ["./a.lua"] = '"."', ["a//b.lua"] = "empty part", ["a/"] = "empty part", ["a\\\\b.lua"] = "not every system", ["c:a.lua"] = "not every system",
      ["a\\u0000.lua"] = "not every system", ["a\\n.lua"] = "not every system", [("a"):rep(300) .. ".lua"] = "longer than 255" } do
      refused(with_entry(('{"file": "%s", "type": "lua"}'):format(name)), reason)
    end
    for name, reason in pairs { ["a."] = "ends with a dot", ["a /b.lua"] = "ends with a dot or a blank", ["con"] = "a device",
      ["x/NUL.lua"] = "a device", ["Lpt1.a.b"] = "a device", ["cafe\u{301}.lua"] = "NFC", ["か\u{3099}.png"] = "NFC",
      ["\xff.lua"] = "not UTF-8" } do
      local ok, why = manifest.check_name(name)
      assert.is_nil(ok, name)
      assert.matches(reason, why, 1, true)
    end
    for _, name in ipairs { "caf\u{e9}.lua", "が.png", "console.lua", "a.con", "com10", ".a", "com/x" } do
      assert.is_true(manifest.check_name(name), name)
    end
    assert.truthy(manifest.check_name("画像/ハート.png"))
    assert.truthy(manifest.check_name("a..b"))
  end)

  it("names no file twice, nor two that become one", function()
    local function two(a, b)
      return with_entry(('{"file": "%s", "type": "text"}, {"file": "%s", "type": "text"}'):format(a, b))
    end
    refused(two("a.txt", "a.txt"), "listed twice")
    refused(two("a.txt", "A.txt"), "differ in case only")
    refused(two("A/x", "a/y"), "the folders a and A differ in case only")
    refused(two("d/A/x", "d/a/y"), "the folders d/a and d/A differ in case only")
    refused(two("\u{c9}.txt", "\u{e9}.txt"), "differs only in case")
    refused(two("a", "a/b"), "a is a file and the folder of a/b")
    refused(two("A/b", "a"), "a is a file and the folder of A/b")
  end)

  it("requires variables by their names", function()
    local head = '{"name": "a", "version": "1", "file_structure": [{"file": "m.lua", "type": "lua"}], "required_variables": '
    refused(head .. '["a", "a"]}', "listed twice")
    refused(head .. '["a b"]}', "no name of a variable")
    refused(head .. "[1]}", "a string expected")
    refused(head .. '"a"}', "a list expected, got a string")
    assert.same({ "a", "b_1" }, manifest.read(head .. '["a", "b_1"]}').required_variables)
  end)
end)
