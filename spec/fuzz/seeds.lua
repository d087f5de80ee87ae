--- Writes the first inputs of a target: `atelier run spec/fuzz/seeds.lua TARGET FOLDER`. Every lexical place once, and
-- what has been a fault before; the rest is the fuzzer's work.
package.path = package.path .. ";./?.lua"
local M = {}

local V <const> = "\xff\xff" -- before a value; see spec/fuzz/input.lua

M.lua = {
  'return "{{x}}"' .. V .. 's"\n', "return '{{x}}{{y}}'" .. V .. "s\\" .. V .. "s'", [[return "\\{{x}}\1{{x}}2\065{{x}}"]] .. V .. "s1",
  'return "\\z  {{x}} \\z\n{{y}}  b", "a\\\n{{x}}\\\r\n"' .. V .. "s  ", 'f"\\x41{{x}}\\u{7fffffff}{{x}}\\"{{!x}}"',
  "return [[{{x}}]], [==[\n{{y}}]==]" .. V .. "s\n" .. V .. "s]=", "return [[a\r{{x}}\r\nb{{y}}\n\r]]" .. V .. "s\n" .. V .. "s]",
  "--{{x}}\nreturn 1 --[=[ {{y}} ]=]" .. V .. "s[[" .. V .. "s]]", "-- {{x}}{{y}}\r--[{{x}}\nf()" .. V .. "s[" .. V .. "s[",
  "return {{x}}, -{{y}}, {{z.a}}^2" .. V .. "i\xff\xff\xff\xff\xff\xff\xff" .. V .. "q\1\3" .. V .. "f\0\0\0\0\0\0\0\x80",
  "local v = {{x}}\n(function() end)()\nreturn v" .. V .. "oa", "return {{{x}}, {{y}}, a = {{x}}; [{{y}}] = {}}" .. V .. "a1,2,b" .. V .. "t",
  "return{{x}}--[[{{y}}]]..{{x}}", "local v<const> ={{x}} goto l ::l:: do end" .. V .. "n", "for i={{x}},{{y}}do f'{{z.a}}'end",
  "\xEF\xBB\xBF#!/usr/bin/lua {{y}}\nreturn {{x}} or nil", "return {{x, y}}, {{1}, {2}}, {{!x}}, {{ x }}, '{{ x }}{{!!x}}'",
  "return { {{x}} (1) }", "a.{{x}} = 1", "a = f {{x}}", "a = {{x}}.y", "a = 3{{x}}", 'a = "\\x4{{x}}"', 'a = "\\u{4{{x}}}"', "a = b{{x}}c", "{{x}} = 1",
  "if not{{x}}then return ...elseif{{y}}==1 then repeat until{{x}} end", "local s = #{{x}} // 0x1p4 .. 3 .. [[]] ~= 1e5 & ~2 << 1",
  "return function(...) local a, b <close> = ..., {{x}} while {{y}} do break end end",
}

M.json = {
  '{"a": {{x}}, "b": [{{y}}, {{z.a}}]}' .. V .. "oq" .. V .. "f\0\0\0\0\0\0\0\x80", '{"{{x}}": "{{y}}", "a{{y}}": null}' .. V .. "a" .. V .. "sa",
  '["\\\\{{x}}\\u0041{{x}}\\ud83d\\ude00{{y}}\\"{{!x}}{{!!x}}"]' .. V .. 's"\\', '["\\ud83d{{x}}\\ude00"]', '["\\\\ud83d{{x}}"]', '["\\{{x}}", "\\u00{{x}}"]',
  "{{x}}" .. V .. "a1,2,b", '\xEF\xBB\xBF[true, false, null, -0, 1.5e-3, 1E+2, {{x}}]' .. V .. "i\xff\xff\xff\xff\xff\xff\xff\x7f",
  '{"a": 1{{x}}}', "[{{x}}{{y}}]", '{{{x}}: 1}', "[{{!x}}]", '{"a":1,"a":2}', "[9223372036854775808, 1e999]", '"{{x}}"' .. V .. "s\xff\0",
  '{"a\\u0000b": "\\u0000", "c": "{{x}}"}' .. V .. "s\0",
}

M.vars = {
  '{"a": "x", "b": [1, -0, 1.5e3, true, false, null, {"c": {}}], "d": ""}', '{"a": "\\ud83d\\ude00\\u0000\\n\\/", "b": NaN, "c": -Infinity}',
  '\xEF\xBB\xBF{ "a" : "\xff\n" }\r\n', '{"a": 9223372036854775807, "b": -9223372036854775808, "c": 1E-400}', '{"a":1,"a":2}', "{}x",
}

M.jsondec = { '{"a": "x", "b": [1, -0, 1.5e3, true, false, null, {"c": {}}], "d": ""}', '"\\ud83d\\ude00\\u0000"', "[[[[1e5]]]]", "-0.0", "0.1",
  '{"a":1,"a":2}', "9223372036854775807", "[1,]", "1e999", '"\xe2\x80\xa8"' }

M.manifest = {
  '{"name":"a","version":"1.0.0","file_structure":[{"file":"main.lua","type":"lua"}]}',
  '{"name":"a_b-1","version":"1.0.0+x","description":"d","runtime":"autotouch","container":"winzip-aes256","required_variables":["x","_y1"],'
    .. '"file_structure":[{"file":"a/b.lua","type":"lua","required":true,"tool":"timeline"},{"file":"A/c.png","type":"binary"}]}',
  '{"name":"a","version":"1","file_structure":[{"file":"a","type":"text"},{"file":"A/b.JSON","type":"json"},{"file":"../x.lua","type":"text"},null,[],1]}',
}

function M.zip()
  local zip, rawzip = require "atelier.zip", require "spec.ate.support.rawzip"
  local function made(options)
    local w = zip.writer()
    assert(w:add("main.lua", ("print 1\n"):rep(9), options))
    assert(w:add("lib/é.lua", "", options))
    return (assert(w:close()))
  end
  local stored = made { method = "store" }
  return {
    stored, made { method = "deflate" }, made { password = "p" }, rawzip.build { { name = "a", data = "b" }, { name = "A/b", data = "c" } },
    rawzip.build { { name = "../a", data = "b" } }, rawzip.build { { name = "l", data = "a", mode = 0xa1ff } }, stored:sub(1, -2), "junk" .. stored,
    rawzip.build { { name = "big", data = "x", size = 1 << 30 } }, stored:sub(1, -3) .. "\4\0note", rawzip.build {},
  }
end

-- Besides the published vectors, which run.sh adds.
function M.ate()
  local forge = require "spec.ate.support.forge"
  local list = { "\2" .. forge.METADATA }
  for i, key in ipairs { "tools", "generation", "expires_at", "plan" } do
    list[#list + 1] = "\2" .. forge.metadata(key, ({ "[]", "-1", '"2028-02-29T00:00:00Z"', "null" })[i])
  end
  for _, bytes in ipairs(M.zip()) do list[#list + 1] = "\1" .. bytes end
  return list
end

-- Templates in words, each word once; and choices of the grammar.
for _, language in ipairs { "lua", "json" } do
  for i = 0, 120 do M[language][#M[language] + 1] = ("\2\0\1%c%c%c%c\1%c"):format(i, i * 7 % 256, i * 13 % 256, i * 29 % 256, i * 3 % 256) end
  for byte = 128, 254, 2 do M[language][#M[language] + 1] = ("\1%c%c"):format(byte, byte + 1) end
end

if ... == "spec.fuzz.seeds" then return M end -- required, by a spec

local target, folder = arg[1], arg[2]
local list = M[target]
if type(list) == "function" then list = list() end
for i, bytes in ipairs(list) do
  local file <close> = assert(io.open(("%s/%03d"):format(folder, i), "wb"))
  file:write(bytes)
end
