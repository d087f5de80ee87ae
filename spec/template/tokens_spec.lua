local siblings = require "template.siblings"
local tokens = require "template.tokens"

local function requests(text)
  local list = {}
  for i, r in ipairs(tokens.requests(text)) do list[i] = ("%s %s%s"):format(r.how, r.name, r.late and " late" or "") end
  return list
end

describe("a skeleton", function()
  it("leaves words and signs, and no text or number", function()
    for text, expected in pairs {
      ['x = "a\\"b" .. \'c\' .. [[d]] .. [==[ ]] ]=] ]==]'] = "x = S .. S .. S .. S",
      ["x = 1 + 0x1p-3 - 3. * .5e+7 // 2"] = "x = N + N - N * N // N",
      ["x -- one\n--[[ two\n]] y --[==[ ]] ]==] z"] = "x y z",
      ["#!/bin/lua\nx"] = " x",
      ["\xEF\xBB\xBFx = 'a\\\r\nb'"] = "x = S",
      ["a.b:c{d=1}[2]'e'"] = "a.b:c{d=N}[N]S",
      ["x1 = y2"] = "x1 = y2",
      ["a--[[]]b"] = "a b",
    } do
      assert.equal(expected, tokens.skeleton(text))
    end
  end)

  it("differs as soon as a value has become code", function()
    local fine = tokens.skeleton 'local a = "x"'
    assert.equal(fine, tokens.skeleton 'local a = "\\"os.exit()"')
    assert.not_equal(fine, tokens.skeleton 'local a = "x" os.exit() --"')
    assert.not_equal(fine, tokens.skeleton 'local a = "x" .. ""')
  end)
end)

describe("requests", function()
  it("are found where a literal names a script", function()
    assert.same({ "require a", "require b", "dofile c.lua", "require d\\e" },
      requests [[local a = require "a" require('b') dofile [=[c.lua]=] (require) "x" require "d\\e"]])
  end)

  it("know whether they wait inside of a function", function()
    assert.same({ "require a late", "require b", "require c", "require d late", "require e" }, requests [[
      local function f() if x then require "a" end end
      if y then require "b" end
      for i = 1, 2 do repeat local z = require "c" until z end
      local t = { function() while true do return require "d" end end }
      return require "e"]])
  end)

  it("are not fields, definitions, comments or computed names", function()
    assert.same({}, requests [[x.require "a" x:require "b" function require(name) end -- require "c"
      local s = 'require "d"' require(e) require("f" .. g) require(h "i")]])
  end)
end)

describe("siblings", function()
  local function check(texts, known)
    known = known or {}
    for name in pairs(texts) do known[name] = true end
    local list = {}
    for i, f in ipairs(siblings.check(texts, known)) do list[i] = ("%s:%d:%d: %s"):format(f.file, f.line, f.column, f.message) end
    table.sort(list)
    return list
  end

  it("may ask for each other by every form of a name", function()
    assert.same({}, check { ["main.lua"] = 'require "a" require "b.c" dofile "b/c.lua" require "./a" require "a.lua" require "string"',
      ["a.lua"] = "", ["b/c.lua"] = "" })
  end)

  it("must be there", function()
    assert.same({ 'main.lua:2:1: require "a": the template has no such script' }, check { ["main.lua"] = '\nrequire "a"' })
    assert.same({ 'main.lua:1:1: dofile "b.lua": the template has no such script' }, check { ["main.lua"] = 'dofile "b.lua"' })
  end)

  it("may be those of another plan, which shows when the bundle runs", function()
    assert.same({}, check({ ["main.lua"] = 'if x then require "a" end' }, { ["a.lua"] = true }))
  end)

  it("must not need each other while they load", function()
    assert.same({ "b.lua:1:1: scripts that need each other: a.lua → b.lua → a.lua" },
      check { ["a.lua"] = 'require "b"', ["b.lua"] = 'require "a"' })
    assert.same({ "a.lua:1:1: scripts that need each other: a.lua → a.lua" }, check { ["a.lua"] = 'require "a"' })
    assert.same({}, check { ["a.lua"] = 'require "b"', ["b.lua"] = 'return function() require "a" end' })
  end)
end)
