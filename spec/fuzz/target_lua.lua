--- Oracle of the Lua renderer: the law. The template is read by a second lexer that puts the values where they belong;
-- the rendered text must have exactly these tokens, and a value in code must load as itself. Lua judges the second
-- lexer: what it read, written anew with every string as plain escapes, must give the same bytecode.
-- Texts without marks must be taken exactly when Lua takes them, and come out unchanged.
local fuzz = require "fuzz" -- of harness.c
local input = require "spec.fuzz.input"
local luatokens = require "spec.fuzz.luatokens"
local json = require "atelier.json"
local nasty = require "template.nasty"
local render = require "template.render"
local values = require "template.values"

local finding = input.finding

-- What Lua's loader passes over.
local function body_of(text)
  text = text:gsub("^\xEF\xBB\xBF", "")
  return (text:gsub("^#[^\n]*", ""))
end

local function dump(text, what, ...)
  local chunk, message = load(text, "=f", "t", {})
  if not chunk then finding(what .. ": " .. message, text, ...) end
  return string.dump(chunk, true)
end

-- A value's literal, as tokens; proves by Lua that it is the value.
local function literal(value, name)
  local text, reason = values.expression(value)
  if not text then finding("rendered what has no literal: " .. reason, name) end
  local chunk, message = load("return " .. text, "=v", "t", {})
  if not chunk then finding("a literal does not load: " .. message, text) end
  if not nasty.same(value, chunk()) then finding("a literal is another value", text) end
  if type(value) == "number" and not nasty.same(value ^ 2, load("return " .. text .. "^2")()) then
    finding("a number comes apart beside an operator", text)
  end
  return assert(luatokens.tokens(text))
end

local function expected_tokens(template, given)
  local list, marked = luatokens.tokens(template, function(name)
    return values.plain(input.lookup(given, name)) or "\0impossible\0"
  end)
  if not list then return nil, marked end
  local out = {}
  for i, token in ipairs(list) do
    if token[1] == "place" then
      local inner = literal(input.lookup(given, token[2]), token[2])
      table.move(inner, 1, #inner, #out + 1, out)
      local next_token = list[i + 1]
      if next_token and next_token[1] == "op" and next_token[2] == "(" then out[#out + 1] = { "op", ";" } end
    else
      out[#out + 1] = token
    end
  end
  return out, marked
end

local function check_law(template, text, given)
  local body = body_of(text)
  local want, why = expected_tokens(template, given)
  if not want then finding("rendered a template that is no Lua: " .. why, template, text) end
  local got, reason = luatokens.tokens(body)
  if not got then finding("the rendered text is no Lua: " .. reason, template, text) end
  for i = 1, math.max(#want, #got) do
    local a, b = want[i] or {}, got[i] or {}
    if a[1] ~= b[1] or a[2] ~= b[2] then
      finding(("token %d is %s, not %s"):format(i, b[1], a[1]), template, text, b[2], a[2])
    end
  end
  local code = dump(body, "the rendered text does not load", template)
  if code ~= dump(luatokens.join(got), "the judge is wrong", body) then
    finding("the judge reads another program than Lua", body, luatokens.join(got))
  end
end

local function plain_lua(template, compiled)
  local chunk, message = load(body_of(template), "=f", "t", {})
  if (chunk ~= nil) ~= (compiled ~= nil) then
    finding("Lua and the compiler differ over a text without marks: " .. tostring(message), template)
  end
  if compiled and compiled:render {} ~= template then finding("a text without marks was changed", template) end
end

-- Is the template Lua, with a number in each place in code and no more semicolons than the author wrote?
local function is_lua(body)
  local list = luatokens.tokens(body, function() return "x" end)
  for _, token in ipairs(list or {}) do
    if token[1] == "place" then token[1], token[2] = "number", "777" end
  end
  return list ~= nil and load(luatokens.join(list), "=f", "t", {}) ~= nil
end

local function features(compiled)
  for _, slot in ipairs(compiled.ordered) do
    fuzz.feature(slot.pieces and "group " .. #slot.pieces or "slot")
  end
end

local function check_message(message, code)
  if code ~= "template" or not message:find("^f.lua:%d+:%d+: ") then finding("a strange message", message) end
  input.message(message)
end

return function(data)
  local template, sets = input.split(data, "lua")
  local compiled, message, code = render.compile(template, { as = "lua", file = "f.lua" })
  if not template:find("{{", 1, true) then plain_lua(template, compiled) end
  local body = body_of(template)
  fuzz.watch(false)
  local touches = message and message:find("would be part of a n", 1, true) -- refused though Lua would part them
  if not touches and is_lua(body) ~= (compiled ~= nil) then finding("Lua and the compiler differ: " .. tostring(message), template) end
  fuzz.watch(true)
  if not compiled then return check_message(message, code) end
  features(compiled)
  for _, given in ipairs(sets) do
    local text, reason, kind = compiled:render(given)
    fuzz.watch(false)
    if text then check_law(body, text, given) else check_message(reason, kind) end
    fuzz.watch(true)
    if not compiled.personal then break end
  end
  if json.live_handles() > 0 then finding "a handle is alive" end
end
