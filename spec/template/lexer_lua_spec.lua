local lexer = require "template.lexer_lua"
local render = require "template.render"

local function kinds(text)
  local regions, faults = lexer.scan(text)
  local list = {}
  for i, region in ipairs(regions) do list[i] = region.kind end
  return table.concat(list, " "), #faults
end

describe("the lexer for Lua", function()
  it("tells the place of each placeholder", function()
    local CASES = {
      ["a = {{x}}"] = "place", ['a = "{{x}}"'] = "quoted", ["a = '{{x}}'"] = "quoted", ["a = [[{{x}}]]"] = "long",
      ["a = [=[ ]] {{x}} ]=]"] = "long", ["-- {{x}}\na={{x}}"] = "comment place", ["--[[{{x}}\n]]a={{x}}"] = "long_comment place",
      ["--[ [{{x}}\na={{x}}"] = "comment place", ["--[={{x}}\na={{x}}"] = "comment place", ["#{{x}}\n{{x}}"] = "shebang place",
      ["\xEF\xBB\xBF#{{x}}\n{{x}}"] = "shebang place", [" #{{x}}"] = "place", ['a = "\\"{{x}}"'] = "quoted",
      ["a = '\"' .. {{x}}"] = "place", ['a = "\'" .. {{x}}'] = "place", ['a = "--" {{x}}'] = "place", ["a = '[[' {{x}} ']]'"] = "place",
      ['a = "\\\n{{x}}"'] = "quoted", ['a = "\\\r\n{{x}}"'] = "quoted", ['a = "\\z \n {{x}}"'] = "quoted", ["a = b[c[{{x}}]]"] = "place",
      ["--{{x}}\r{{x}}"] = "comment place", ["a = [[\n{{x}}]] --[[{{x}}]] --{{x}}"] = "long long_comment comment",
      ["a = {{!x}}"] = "kept", ["{{x}}{{x}}"] = "place place", ["{{{x}}}"] = "place", ["{{{{x}}}}"] = "place", ["{{x}, {x}}"] = "",
    }
    for text, wanted in pairs(CASES) do
      local found, faults = kinds(text)
      assert.equal(wanted, found, text)
      assert.equal(0, faults, text)
    end
  end)

  it("tells what never ends", function()
    for _, text in ipairs { '"{{x}}', "'{{x}}\n'", "[[{{x}}]", "[=[{{x}}]]", "--[[{{x}}", "--[==[{{x}}]=]", '"\\' } do
      local _, faults = kinds(text)
      assert.equal(1, faults, text)
    end
  end)

  -- Lua is the judge: no value may become a name that the compiled chunk looks up.
  it("agrees with Lua's own lexer about texts made at random", function()
    local PIECES = { '"', "'", "[[", "]]", "[=[", "]=]", "--", "--[[", "--[=[", "\n", "\r\n", "\\", "\\z", "\\\n", " ", "a", "=", "1", "..",
      "{", "}", "return", "(", ")", "0x", ".", "\\x41", "\\065", ";", "[", "]", "#", "local b", "日", "{{x}}", "{{x}}", "{{x}}", "{{!x}}" }
    local seed = 20241122
    local function random(n)
      seed = (seed * 1103515245 + 12345) & 0x7fffffff
      return (seed >> 8) % n + 1
    end
    local compiled_some = 0
    local function calls_evil(chunk) return string.dump(chunk):find("\x85evil", 1, true) ~= nil end
    assert.is_true(calls_evil(load("return evil()")))
    assert.is_false(calls_evil(load("return 'evil()', [[x evil]]")))
    for _ = 1, 20000 do
      local parts = {}
      for i = 1, random(12) do parts[i] = PIECES[random(#PIECES)] end
      local text = "local v = " .. table.concat(parts) .. "\n"
      local compiled = render.compile(text, { as = "lua" })
      if compiled and compiled.personal then
        compiled_some = compiled_some + 1
        -- A value that would do something wherever it became code, tried in each kind of text.
        for _, value in ipairs { "\n evil() --", "]] evil() --", '" .. evil() .. "', "' .. evil() .. '", "]=] evil() --[=[", "[[", "[=[\n" } do
          local rendered = compiled:render { x = value }
          if rendered then
            local chunk, why = load(rendered:gsub("^#[^\n]*", ""), "=x", "t", { evil = 1 })
            assert.truthy(chunk, text .. "\n" .. rendered .. "\n" .. tostring(why))
            assert.is_false(calls_evil(chunk), text .. "\n" .. rendered)
          end
        end
      end
    end
    assert.truthy(compiled_some > 150, "only " .. compiled_some .. " texts compiled")
  end)
end)
