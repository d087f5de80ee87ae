local json = require "atelier.json"
local nasty = require "spec.support.nasty_values"
local render = require "template.render"

local function compile(text, as)
  return assert(render.compile(text, { as = as or "lua", file = "main.lua" }))
end

-- Renders and loads as a script's runtime would (a byte order mark and a first line with "#" are passed over).
local function run(compiled, vars)
  local text, message, code = compiled:render(vars)
  if not text then return nil, message, code end
  local body = text:gsub("^\xEF\xBB\xBF", ""):gsub("^#[^\n]*", "")
  local chunk = assert(load(body, "=main.lua", "t", setmetatable({}, { __index = function(_, name)
    error("the chunk read the global " .. name)
  end })))
  return true, chunk()
end

local function refused(text, pattern, as)
  local compiled, message, code = render.compile(text, { as = as or "lua", file = "main.lua" })
  assert.is_nil(compiled, "compiled: " .. text)
  assert.equal("template", code)
  assert.matches(pattern, message)
  assert.matches("^main.lua:%d+:%d+: ", message)
  return message
end

-- A value's text in a string: itself, or its plain form.
local function text_form(value)
  if type(value) == "string" then return value end
  if math.type(value) == "float" then return value end
  return tostring(value)
end

local function is_text(value)
  return type(value) ~= "table" and value ~= json.null
end

-- Every place of a Lua text; `expect` makes of the value what the chunk must return, `may_refuse` says that it may not
-- be able to carry it.
local PLACES = {
  { "double quotes", 'return "{{x}}"', text = true },
  { "single quotes", "return '{{x}}'", text = true },
  { "between text", 'return "a{{x}}1"', text = true, around = { "a", "1" } },
  { "twice, touching", 'return "{{x}}{{x}}"', text = true, twice = true },
  { "behind an escaped backslash", [[return "\\{{x}}"]], text = true, around = { "\\", "" } },
  { "behind a short decimal escape", [[return "\1{{x}}2"]], text = true, around = { "\1", "2" } },
  { "behind two decimal digits", [[return "\12{{x}}3"]], text = true, around = { "\12", "3" } },
  { "behind a hexadecimal escape", [[return "\x41{{x}}B"]], text = true, around = { "A", "B" } },
  { "behind a code point", [[return "\u{41}{{x}}"]], text = true, around = { "A", "" } },
  { "behind a skip of blanks", '\nreturn "a\\z   \n  {{x}}  b"', text = true, around = { "a", "  b" } },
  { "behind a bare skip", 'return "\\z{{x}}\tb"', text = true, around = { "", "\tb" } },
  { "behind a skip, twice", 'return "\\z {{x}}{{x}} "', text = true, twice = true, around = { "", " " } },
  { "behind an escaped line end", 'return "a\\\n{{x}}"', text = true, around = { "a\n", "" } },
  { "in a call without parentheses", "local function f(s) return s end return f'{{x}}'", text = true },
  { "as a key in quotes", 'return next({ ["{{x}}"] = 1 })', text = true },
  { "long brackets", "return [[{{x}}]]", text = true, may_refuse = true },
  { "long brackets of a level", "return [==[{{x}}]==]", text = true, may_refuse = true },
  { "long brackets with a first line end", "return [[\n{{x}}]]", text = true, may_refuse = true },
  { "long brackets, text around", "return [=[a{{x}}b]=]", text = true, may_refuse = true, around = { "a", "b" } },
  { "long brackets before ]", "return [[{{x}}] ]]", text = true, may_refuse = true, around = { "", "] " } },
  { "long brackets, twice, touching", "return [[{{x}}{{x}}]]", text = true, may_refuse = true, twice = true },
  { "long brackets before CR LF", "return [[{{x}}\r\n]]", text = true, may_refuse = true, around = { "", "\n" } },
  { "long brackets between CRs", "return [[a\r{{x}}\rb]]", text = true, may_refuse = true, around = { "a\n", "\nb" } },
  { "returned", "return {{x}}" },
  { "touching a keyword", "return{{x}}" },
  { "in parentheses", "return ({{x}})" },
  { "an argument", "return (function(...) return (select(2, 1, {{x}}, 3)) end)()", needs = { select = select } },
  { "an item", "return ({ {{x}} })[1]" },
  { "an item, touching braces", "return ({{{x}}})[1]" },
  { "between commas", "return ({1,{{x}},3})[2]" },
  { "a field", "return ({ a = {{x}} }).a" },
  { "a default", "return nil or {{x}}" , falsy = true },
  { "a comparison", "local v = {{x}} return v, v == {{x}}" },
  { "before a statement in parentheses", "local v = {{x}}\n(function() end)()\nreturn v" },
  { "before a label", "local v = {{x}} ::l:: return v" },
  { "before a comment", "return {{x}}--[[{{y}}]]" },
  { "behind a comment", "return --[==[ ]] ]==]{{x}}" },
  { "between line ends", "local v\r\n=\r\n{{x}}\r\nreturn v\r\n" },
  { "in a file with a mark and a first line", "\xEF\xBB\xBF#!/usr/bin/lua {{y}}\nreturn {{x}}" },
}

describe("the law of exact round trip, in Lua", function()
  for _, place in ipairs(PLACES) do
    it("holds: " .. place[1], function()
      local compiled = compile(place[2])
      for _, case in ipairs(nasty.finite) do
        local value = case.value
        local called = false
        local text, message, code = compiled:render { x = value, y = "y" }
        if not text then
          assert.equal("template", code)
          assert.matches("{{x}} ", message, 1, true)
          assert.matches("^main.lua:%d+:%d+: ", message)
          local allowed = place.text and (not is_text(value) or place.may_refuse)
          assert.truthy(allowed, case.name .. " was refused: " .. message:sub(1, 300))
        else
          local body = text:gsub("^\xEF\xBB\xBF", ""):gsub("^#[^\n]*", "")
          local chunk, why = load(body, "=main.lua", "t", place.needs or { next = next })
          assert.truthy(chunk, case.name .. ": " .. tostring(why))
          local seen = chunk()
          local expected = value
          if place.text then
            expected = text_form(value)
            if math.type(value) == "float" then
              local inner = seen:sub(1 + #(place.around and place.around[1] or ""))
              called = true
              assert.truthy(place.around or place.twice or nasty.same(tonumber(inner), value), case.name)
            else
              if place.twice then expected = expected .. expected end
              if place.around then expected = place.around[1] .. expected .. place.around[2] end
            end
          end
          if place.falsy and not value then expected = value end
          if not called then
            assert.truthy(nasty.same(expected, seen), case.name .. ": " .. tostring(seen):sub(1, 80))
          end
        end
      end
    end)

    it("refuses what nothing can carry: " .. place[1], function()
      local compiled = compile(place[2])
      for _, case in ipairs(nasty.impossible) do
        local text, message, code = compiled:render { x = case.value, y = "y" }
        assert.is_nil(text, case.name)
        assert.equal("template", code)
        assert.matches("{{x}} ", message, 1, true)
      end
    end)
  end

  it("keeps long brackets for what they can carry", function()
    local compiled = compile "return [[{{x}}]]"
    for _, value in ipairs { "a", "", "\n", "\n\n", "a\nb", "]", "] ] ", "[[", "--", "\0", "\xff", "]=] ", "{{y}}", "\\n" } do
      local ok, seen = run(compiled, { x = value })
      if value == "]" then
        assert.is_nil(ok)
      else
        assert.equal(value, seen)
      end
    end
  end)

  it("carries a megabyte", function()
    local _, quoted, literal = run(compile 'return "{{x}}", {{x}}', { x = nasty.megabyte })
    assert.truthy(quoted == nasty.megabyte and literal == nasty.megabyte)
  end)

  it("keeps an author's line end behind an empty value", function()
    local _, seen = run(compile "return [[{{x}}\ntext]]", { x = "" })
    assert.equal("\ntext", seen)
  end)

  it("sees two placeholders together", function()
    local compiled = compile "return [[{{x}}{{y}}]]"
    assert.is_nil(compiled:render { x = "]", y = "]" })
    assert.is_nil(compiled:render { x = "", y = "]" })
    local _, seen = run(compiled, { x = "", y = "\nb" })
    assert.equal("\nb", seen)
    assert.is_nil(compile("--{{x}}{{y}}\nreturn 1"):render { x = "[", y = "[" })
    assert.is_nil(compile("--[{{x}}\nreturn 1"):render { x = "==[" })
    assert.is_nil(compile("--[=={{x}}\nreturn 1"):render { x = "[" })
  end)
end)

describe("comments", function()
  local COMMENTS = { "--{{x}}\nreturn 1", "-- {{x}}\r\nreturn 1", "return 1 -- {{x}}", "--[[{{x}}]] return 1",
    "--[==[ {{x}}]==]return 1", "#{{x}}\nreturn 1", "--[[{{x}}\n{{x}}]]\nreturn 1", "--{{x}}{{x}}\rreturn 1" }

  it("stay comments, whatever the value", function()
    for _, text in ipairs(COMMENTS) do
      local compiled = compile(text)
      for _, case in ipairs(nasty.strings) do
        local ok, seen = run(compiled, { x = case.value })
        if ok then assert.equal(1, seen, text .. " with " .. case.name) end
      end
    end
  end)

  it("refuse what would end them", function()
    for _, value in ipairs { "\n", "\r", "a\nb", "a\r" } do
      assert.is_nil(compile(COMMENTS[1]):render { x = value })
      assert.is_nil(compile(COMMENTS[6]):render { x = value })
    end
    assert.is_nil(compile(COMMENTS[1]):render { x = "[[" })
    assert.is_nil(compile(COMMENTS[4]):render { x = "]]" })
    assert.is_nil(compile(COMMENTS[4]):render { x = "]" })
    assert.is_nil(compile(COMMENTS[5]):render { x = "]==]" })
    assert.equal("--[==[ ]]]==]return 1", compile(COMMENTS[5]):render { x = "]]" })
  end)
end)

describe("wrong places", function()
  it("are told, each with its reason", function()
    refused('return "\\{{x}}"', "part of an escape sequence")
    refused('return "\\x{{x}}"', "part of an escape sequence")
    refused('return "\\x4{{x}}"', "part of an escape sequence")
    refused('return "\\u{{x}}"', "part of an escape sequence")
    refused('return "\\u{{{x}}}"', "part of an escape sequence")
    refused('return "\\u{4{{x}}}"', "part of an escape sequence")
    refused("return a.{{x}}", "field or method name")
    refused("return a:{{x}}()", "field or method name")
    refused("goto {{x}}", "a label cannot")
    refused("::{{x}}::", "a label cannot")
    refused("function {{x}}() end", "function's name")
    refused("local {{x}} = 1", "local variable")
    refused("for {{x}} = 1, 2 do end", "loop variable")
    refused("for {{x}} in pairs {} do end", "loop variable")
    refused("local a <{{x}}> = 1", "no expression may stand")
    refused("{{x}} = 1", "cannot be assigned to")
    refused("a, {{x}} = 1, 2", "cannot be assigned to")
    refused("{{x}}", "no expression may stand")
    refused("a = 1 {{x}}", "follows an expression")
    refused("f {{x}}", "follows an expression")
    refused("f{{x}}", "part of a name")
    refused("f(){{x}}", "follows an expression")
    refused("a[1]{{x}}", "follows an expression")
    refused('a = "s"{{x}}', "follows an expression")
    refused("a = {}{{x}}", "follows an expression")
    refused("a:m {{x}}", "follows an expression")
    refused("a = {{x}}{{y}}", "follows an expression")
    refused("a = {{x}} {{y}}", "follows an expression")
    refused("a = {{x}}.y", "write %({{x}}%)")
    refused("a = {{x}}:y()", "write %({{x}}%)")
    refused("a = {{x}}[1]", "write %({{x}}%)")
    refused('a = {{x}}"s"', "write %({{x}}%)")
    refused("a = {{x}}{}", "write %({{x}}%)")
    refused("a = 3{{x}}", "part of a number")
    refused("a = {{x}}3", "part of a number")
    refused("a = 3.{{x}}", "part of a number")
    refused("a = 3..{{x}}", "part of a number")
    refused("a = 0x{{x}}", "part of a number")
    refused("a = 0xA{{x}}", "part of a number")
    refused("a = 1e{{x}}", "part of a number")
    refused("a = 1e-{{x}}", "part of a number")
    refused("a = 0x1p+{{x}}", "part of a number")
    refused("a = {{x}}.5", "part of a number")
    refused("a = b{{x}}", "part of a name")
    refused("a = {{x}}b", "part of a name")
    refused("a = {{x}}abc = 1", "part of a name")
    refused("a = {{x}}_", "part of a name")
    refused("function f({{x}}) end", ".")
    refused("return function(...{{x}}) end", ".")
    refused("a = [={{x}}", ".")
    refused("a = ~{{x}}=", ".")
  end)

  it("stand beside right ones that look alike", function()
    for _, text in ipairs { "return 1 <{{x}}", "return 1 ~= {{x}}", "return 1 ~={{x}}", "return -{{x}}", "return - {{x}}",
      "return not{{x}}", "return #{{x}}", "return 1-{{x}}", "return 1 --{{x}}\n-{{x}}", "return 1 ..{{x}}", "return {{x}}..1",
      "if {{x}}then end", "return {[{{x}}]={{x}}}", "return {{{x}},{{x}};{{x}}}", "return {{x}}^2", "return 2^{{x}}",
      "return {{x}}//1", "return 1//{{x}}", "return 1&{{x}}|{{x}}~{{x}}", "return {{x}}<<1", "while{{x}}do break end",
      "repeat local a repeat until{{x}}until{{x}}", "for i={{x}},{{x}},{{x}}do end", "return f({{x}}),g{ {{x}} }",
      "a={{x}};b={{x}}", "a={{x}} b={{x}}", "return function()return{{x}}end", "local a<const> ={{x}}", "return({{x}}).y" } do
      compile(text)
    end
  end)

  it("keep negative numbers whole", function()
    local _, seen = run(compile "return {{x}}^2", { x = -3 })
    assert.equal(9.0, seen)
    _, seen = run(compile "return 1-{{x}}", { x = -3 })
    assert.equal(4, seen)
    _, seen = run(compile "return -{{x}}", { x = -3 })
    assert.equal(3, seen)
    _, seen = run(compile "return {{x}}..1", { x = 5 })
    assert.equal("51", seen)
    _, seen = run(compile "return 1 ..{{x}}", { x = 5 })
    assert.equal("15", seen)
  end)

  it("never let a value become a call", function()
    local compiled = compile "local n = 0\nlocal v = {{x}}\n(function() n = n + 1 end)()\nreturn n"
    for _, case in ipairs(nasty.finite) do
      local ok, seen = run(compiled, { x = case.value })
      assert.truthy(ok, case.name)
      assert.equal(1, seen)
    end
  end)
end)

describe("messages", function()
  it("show the place with a caret, and what to do", function()
    local message = refused('local 日本 = 1\nlocal 端末 = "\\{{x}}"', "escape")
    assert.equal('main.lua:2:14: {{x}} would be part of an escape sequence\n  local 端末 = "\\{{x}}"\n'
      .. "                 ^~~~~\n  write \\\\ for a backslash of the text, or keep the escape sequence apart from the placeholder", message)
  end)

  it("are given for every fault of a rendering", function()
    local _, message = compile('local a = "{{a}}"\nlocal b = {{b}}\nlocal c = [[{{c}}]]\nlocal d = "{{d}}"'):render {
      a = json.null, b = 0 / 0, c = "]]", }
    assert.matches("main.lua:1:12: {{a}} is null", message, 1, true)
    assert.matches("main.lua:2:11: {{b}} is NaN", message, 1, true)
    assert.matches("main.lua:3:13: {{c}} would end the long bracket early", message, 1, true)
    assert.matches("main.lua:4:12: unknown variable {{d}}", message, 1, true)
  end)

  it("never show a value", function()
    local _, message = compile("--{{key}}"):render { key = "SECRET\nSECRET" }
    assert.is_nil(message:find("SECRET", 1, true))
  end)

  it("name Lua's own complaint where the template is no Lua", function()
    refused("local x = = 1\n", "unexpected symbol")
    -- At the token that Lua stops at, and not at one before it that looks like it.
    for text, place in pairs {
      ["x = = 1"] = "1:5: ", ["\n\na = 1 == 2 = 3"] = "3:7: ", ["x = '= =' = 4"] = "1:11: ", ["endless = 1 end"] = "1:13: ",
      ['a = "b" --[[ = ]] = 3'] = "1:19: ", ["f(a, b,, c)"] = "1:8: ", ["return 1 return"] = "1:10: ",
      ["x = '{{a.=}}' = 4"] = "", ["x = '{{a}}' = 4 = 5"] = "1:13: ",
    } do
      local _, message = render.compile(text, { as = "lua", file = "m.lua" })
      assert.matches("m.lua:" .. place, message, 1, true)
    end
    refused("if true then", "expected")
    refused('x = "abc\n"', "unfinished string")
    refused("x = [[abc", "unfinished long string")
    refused("--[[abc", "unfinished long comment")
    refused([[x = "\q"]], "invalid escape")
  end)

  it("find the line whatever ends it", function()
    for _, line_end in ipairs { "\n", "\r\n", "\r", "\n\r" } do
      local message = refused("local a" .. line_end .. "local b" .. line_end .. "c.{{x}} = 1", "field")
      assert.matches("^main.lua:3:3: ", message)
    end
  end)
end)

describe("marks", function()
  it("are kept where an author asks for it", function()
    assert.equal('return "{{x}}", "{{!x}}"', compile('return "{{!x}}", "{{!!x}}"'):render {})
    assert.equal("local t = {{x}}", compile("local t = {{!x}}"):render {})
    assert.equal("--{{x}} [[{{x}}]]", compile("--{{!x}} [[{{!x}}]]"):render {})
    assert.equal("return [[{{x}}v]]", compile("return [[{{!x}}{{x}}]]"):render { x = "v" })
    assert.equal('{"a": "{{x}}"}', compile('{"a": "{{!x}}"}', "json"):render {})
    assert.equal("{{x}} v {{!y.z}}", compile("{{!x}} {{x}} {{!!y.z}}", "text"):render { x = "v" })
  end)

  it("are no placeholders when they only begin like one", function()
    for _, text in ipairs { "return {{1,2},{3,4}}", "return {{x, y}}", "return {{ x }}", "return {{}}", "return {{x}, {y}}", "return {{x=1}}",
      "return {{{1}}}", 'return "{{"', 'return "}}"', 'return "{{x}"', 'return "{x}}"', 'return "{{x-y}}"', 'return "{{1x}}"',
      "return {{'x'}}", "return { {x} }", "return {{x.y.z,}}", "return {{x}.y}" } do
      local compiled = render.compile(text, { as = "lua" })
      if compiled then assert.equal(text, compiled:render {}) end
    end
  end)

  it("are warned about when they nearly are one", function()
    assert.matches("no placeholder", compile('return "{{ x }}"').warnings[1])
    assert.matches("no placeholder", compile('-- {{my-name}}').warnings[1])
    assert.equal(0, #compile('return {{ x }}').warnings)
  end)

  it("reach into a variable", function()
    local compiled = compile 'return "{{params.theme.name}}", {{params}}'
    assert.same({ "params", "params.theme.name" }, compiled.names)
    local _, name, params = run(compiled, { params = { theme = { name = "dark" } } })
    assert.equal("dark", name)
    assert.same({ theme = { name = "dark" } }, params)
    assert.is_nil(compiled:render { params = { theme = "dark" } })
    assert.is_nil(compiled:render { params = json.null })
  end)

  it("of a value are never looked at again", function()
    local _, a, b, c = run(compile 'return "{{a}}", {{a}}, [[{{a}}]]', { a = "{{b}}", b = "no" })
    assert.same({ "{{b}}", "{{b}}", "{{b}}" }, { a, b, c })
  end)
end)

describe("JSON", function()
  local function equal_json(expected, text, name)
    local value, message = json.decode(text, { max_depth = 1000 })
    assert.truthy(value ~= nil, name .. ": " .. tostring(message))
    assert.equal(json.encode(expected), json.encode(value), name)
  end

  it("carries every value that it can, in the place of a value", function()
    local compiled = compile('{"a": {{x}}, "b": [{{x}},{{x}}]}', "json")
    for _, case in ipairs(nasty.finite) do
      local text, message = compiled:check { x = case.value }
      local utf8_only = json.encode(json.array { case.value })
      assert.equal(utf8_only ~= nil, text ~= nil, case.name .. ": " .. tostring(message):sub(1, 200))
      if text then equal_json({ a = case.value, b = json.array { case.value, case.value } }, text, case.name) end
    end
  end)

  it("carries every text, in the place of a string", function()
    local compiled = compile('{"a": "{{x}}", "b": ["<{{x}}{{x}}\\\\\\u0041{{x}}>"]}', "json")
    for _, case in ipairs(nasty.strings) do
      local text, message = compiled:check { x = case.value }
      assert.equal(utf8.len(case.value) ~= nil, text ~= nil, case.name .. ": " .. tostring(message):sub(1, 200))
      if text then
        equal_json({ a = case.value, b = json.array { "<" .. case.value:rep(2) .. "\\A" .. case.value .. ">" } }, text, case.name)
      end
    end
  end)

  it("refuses what it cannot carry, and names the variable", function()
    for _, case in ipairs(nasty.impossible) do
      for _, text in ipairs { '[{{x}}]', '["{{x}}"]' } do
        local rendered, message = compile(text, "json"):render { x = case.value }
        assert.is_nil(rendered, case.name)
        assert.matches("{{x}} ", message, 1, true)
      end
    end
    assert.is_nil(compile('"{{x}}"', "json"):render { x = json.null })
    assert.is_nil(compile('"{{x}}"', "json"):render { x = { "a" } })
  end)

  it("keeps empty lists and empty objects apart", function()
    assert.equal("[[], {}]", compile("[{{a}}, {{b}}]", "json"):render { a = json.array {}, b = {} })
    assert.equal('[[], {}]', compile("{{a}}", "json"):render { a = json.array { json.array {}, {} } })
  end)

  it("refuses wrong places", function()
    refused("{ {{x}}: 1}", 'write "{{x}}" for a key', "json")
    refused('{"a" {{x}}}', "expected a colon", "json")
    refused('{"a": 1{{x}}}', "expected a comma or }", "json")
    refused('{"a": -{{x}}}', "no JSON", "json")
    refused('{"a": {{x}}5}', "no JSON", "json")
    refused('{"a": {{x}}.5}', "no JSON", "json")
    refused('{"a": {{x}}e}', "no JSON", "json")
    refused('{"a": t{{x}}}', "no JSON", "json")
    refused('{"a": "b"{{x}}}', "no value may stand", "json")
    refused("[{{x}}{{y}}]", "no value may stand", "json")
    refused("{{x}}{{y}}", "the end of the file", "json")
    refused("[1] {{x}}", "the end of the file", "json")
    refused("[{{x}}", "too early", "json")
    refused("", "too early", "json")
    refused("[{{!x}}]", "inside of a string only", "json")
    refused('["\\{{x}}"]', "part of an escape sequence", "json")
    refused('["\\u{{x}}"]', "part of an escape sequence", "json")
    refused('["\\u00{{x}}"]', "part of an escape sequence", "json")
    refused('["\\ud83d{{x}}"]', "surrogate", "json")
    refused('["\\q"]', "", "json")
    refused('["\t"]', "control character", "json")
    refused("[1,]", "expected a value", "json")
    refused('{"a":1,"a":2}', "duplicate", "json")
    refused("[NaN]", "no JSON", "json")
    refused("[01]", "no JSON", "json")
    refused("// x\n[]", "no JSON", "json")
  end)

  it("refuses keys that a value makes equal", function()
    local compiled = compile('{"{{a}}": 1, "b": 2}', "json")
    assert.equal('{"a": 1, "b": 2}', compiled:render { a = "a" })
    local text, message, code = compiled:render { a = "b" }
    assert.is_nil(text)
    assert.equal("template", code)
    assert.matches("^main.lua:1:3: {{a}} stands in a key that is not the only one", message)
  end)

  it("leaves a byte order mark out, for JSON has none", function()
    local compiled = compile('\xEF\xBB\xBF{"a": {{x}}}', "json")
    assert.equal('{"a": 1}', compiled:render { x = 1 })
    assert.equal(1, #compiled.warnings)
  end)
end)

describe("Lua's parser", function()
  local function nested(depth)
    local value = json.array {}
    for _ = 2, depth do value = json.array { value } end
    return value
  end

  -- Under pcall: the specs' own message handler is to see nothing of what Lua refuses.
  local function loads(text)
    return type(select(2, pcall(load, text))) == "function"
  end

  local function wide(length)
    local value = {}
    for i = 1, length do value[i] = i end
    return value
  end

  -- What is rendered loads; what would not is refused where it stands. Lua counts template and value together.
  it("gets no value that the template's own nesting leaves no room for", function()
    for _, around in ipairs { 0, 40, 60, 79, 100, 170 } do
      local compiled = compile("return " .. ("("):rep(around) .. "{{x}}" .. (")"):rep(around))
      for depth = 1, 120, 17 do
        local text, message = compiled:render { x = nested(depth) }
        assert(not text or loads(text), ("%d parentheses, %d tables"):format(around, depth))
        if not text then
          assert.matches(("main.lua:1:%d: {{x}} is too large or nested too deeply"):format(8 + around), message, 1, true)
        end
      end
      assert(loads(assert(compiled:render { x = "text" })))
      assert(around > 100 or loads(assert(compiled:render { x = nested(2) })))
    end
  end)

  it("names the place also when it is a number that is too much", function()
    for around = 185, 199 do
      local compiled = render.compile("return " .. ("("):rep(around) .. "{{x}}" .. (")"):rep(around), { as = "lua" })
      local text, message = nil, nil
      if compiled then text, message = compiled:render { x = math.mininteger } end
      assert(not compiled or text and loads(text) or message:find("^template:1:%d+: {{x}} is too large"), around)
    end
  end)

  it("gets no value that the other arguments leave no registers for", function()
    local refusals = 0
    for arguments = 150, 250, 5 do
      local compiled = compile("return f(" .. ("nil, "):rep(arguments) .. "{{x}})")
      local text, message = compiled:render { x = wide(100) }
      assert(not text or loads(text), arguments)
      refusals = refusals + (text and 0 or 1)
      assert(text or message:find("{{x}} is too large", 1, true))
      assert(loads(assert(compiled:render { x = 5 })))
    end
    assert(refusals > 5 and refusals < 15)
  end)

  -- The semicolon that keeps a value from a statement behind it would part the fields of a constructor.
  it("sees no call of a value in a constructor", function()
    refused("return { {{x}} (1) }", "cannot be indexed or called")
    refused("return #{ {{x}}\n(f or g), 2 }", "cannot be indexed or called")
    refused("return {{x}} (1)", "cannot be indexed or called")
    assert.equal(-5, select(2, run(compile("local a = {{x}}\n(function() end)()\nreturn a"), { x = -5 })))
  end)
end)

describe("JSON text", function()
  it("takes what only looks like half a pair of surrogates", function()
    assert.equal([[{"a": "\\\\ud83dz"}]], compile([[{"a": "\\\\ud83d{{x}}"}]], "json"):render { x = "z" })
    refused([[{"a": "\\\ud83d{{x}}"}]], "split a surrogate pair", "json")
  end)

  it("may be as deep beside a key that is a placeholder as elsewhere", function()
    local value = json.array {}
    for _ = 2, 500 do value = json.array { value } end
    local compiled = compile('{"{{k}}": {{x}}}', "json")
    assert.equal('{"z": ' .. ("["):rep(500) .. ("]"):rep(500) .. "}", compiled:check { k = "z", x = value })
  end)
end)

describe("plain text", function()
  it("takes texts as they are, and numbers and truths in their plain form", function()
    local compiled = compile("{{a}}{{b}} {{c}}\r\n{{a}}", "text")
    assert.equal("\xff\0]]-1.5 true\r\n\xff\0]]", compiled:render { a = "\xff\0]]", b = -1.5, c = true })
    for _, value in ipairs { json.null, {}, 0 / 0, math.huge } do
      assert.is_nil(compile("{{a}}", "text"):render { a = value })
    end
  end)
end)

describe("the interface", function()
  it("refuses unknown options and kinds", function()
    assert.has_error(function() render.compile("x", { as = "lua", colour = 1 }) end, "compile: unknown option 'colour'")
    assert.has_error(function() render.compile("x", { as = "xml" }) end)
  end)

  it("renders the same object many times", function()
    local compiled = compile 'return "{{x}}"'
    assert.equal('return "1"', compiled:render { x = 1 })
    assert.is_nil(compiled:render {})
    assert.equal('return "2"', compiled:render { x = 2 })
    assert.truthy(compiled.personal)
    assert.falsy(compile("return 1").personal)
  end)
end)
