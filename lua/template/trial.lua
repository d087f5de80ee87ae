--- The trial at compile time: samples stand in for values, and Lua itself says whether they may stand there.
-- Gives diagnoses of the template's text. Knows no values.
-- @module template.trial

local diagnostic = require "template.diagnostic"
local lexer_lua = require "template.lexer_lua"
local values = require "template.values"

local M = {}

local concat = table.concat

--- `load` of a text, for its complaint. By itself, `load` shows some of those (nested too deeply) to the message
-- handler of whatever `xpcall` is around, which takes them for errors.
-- @tparam string text
-- @tparam string name of the chunk
-- @treturn[1] function
-- @return[2] nil
-- @treturn[2] string message
function M.parse(text, name)
  local ok, chunk, message = pcall(load, text, name, "t", {})
  if ok and chunk then return chunk end
  return nil, tostring(ok and message or chunk)
end

local function text_of_group(group)
  local inner = {}
  for i, piece in ipairs(group.pieces) do inner[i] = type(piece) == "table" and "x" or piece end
  return concat(inner)
end

--- The text with a sample in each place: distinct numbers in code, distinct words in strings. A number literal is the
-- strictest guest: it is never a call argument without parentheses, a name, or the beginning of a statement, so where
-- it is taken, any literal is.
-- @tparam table parts
-- @tparam string text the template
-- @treturn string the sampled text
-- @treturn table slots by sample
function M.sample(parts, text)
  local out, by_number, stem, count = {}, {}, 777, 0
  while text:find(tostring(stem), 1, true) do stem = stem + 1 end
  local function text_of(slot)
    if slot.pieces then return text_of_group(slot) end
    count = count + 1
    local number = stem .. ("%06d"):format(count)
    by_number[number] = slot
    return number
  end
  for i, part in ipairs(parts) do out[i] = type(part) == "table" and text_of(part) or part end
  return concat(out), by_number
end

--- Is there room for the largest value in every place in code? Lua bounds the nesting of a text, and the registers of a
-- function, for the template and the values together.
-- @tparam table parts
-- @treturn boolean
function M.has_room(parts)
  local out, asked = {}, false
  for i, part in ipairs(parts) do
    out[i] = type(part) == "string" and part or part.pieces and text_of_group(part)
      or part.in_code and values.LARGEST or "0"
    asked = asked or type(part) == "table" and part.in_code
  end
  local text = asked and concat(out)
  return not text or M.parse(text:sub(lexer_lua.prologue(text) + 1), "=template") ~= nil
end

local ENDS_EXPRESSION = {}
for _, word in ipairs { ")", "]", "}", "...", "end", "nil", "true", "false" } do ENDS_EXPRESSION[word] = true end
local NAMED_NEXT = {
  ["function"] = "a function's name", ["local"] = "the name of a local variable", ["for"] = "a loop variable",
  ["goto"] = "a label", ["::"] = "a label",
}
local NEEDS_PARENTHESES = { ["."] = true, [":"] = true, ["["] = true, ["{"] = true, ["("] = true }

local function ends_expression(token)
  if token.kind == "name" then return ENDS_EXPRESSION[token.text] or not lexer_lua.KEYWORDS[token.text] end
  return token.kind == "string" or token.kind == "number" or token.kind == "place" or ENDS_EXPRESSION[token.text]
end

-- Why no value may stand at a place in code, and what to do.
local function misplaced(region)
  local before, after = region.prev or { text = "" }, region.next or { text = "" }
  local name = region.name
  if before.text == "." or before.text == ":" then
    return "a field or method name cannot be a placeholder", ("index with the value: t[{{%s}}]"):format(name)
  elseif NAMED_NEXT[before.text] then
    return NAMED_NEXT[before.text] .. " cannot be a placeholder"
  elseif ends_expression(before) then
    return ("{{%s}} follows an expression directly, as a second value or as a call's argument"):format(name),
      ("write f({{%s}}) for a call, or an operator or a comma between them"):format(name)
  elseif after.text == "=" then
    return ("{{%s}} cannot be assigned to"):format(name), "assign to a name"
  elseif after.kind == "string" or NEEDS_PARENTHESES[after.text] then
    return ("{{%s}} cannot be indexed or called directly"):format(name), ("write ({{%s}})"):format(name)
  end
  return ("{{%s}} stands where no expression may stand"):format(name),
    ("a placeholder in code is a value; a Lua table in a table is written { {%s} }"):format(name)
end

local function part_of(region)
  local function joined(token, touches)
    if not token or not touches then return nil end
    if token.kind == "number" then return "a number" end
    if token.kind == "name" and not lexer_lua.KEYWORDS[token.text] then return "a name" end
    return nil
  end
  return joined(region.prev, region.prev and region.prev.to == region.from - 1)
    or joined(region.next, region.next and region.next.from == region.to + 1)
end

--- Placeholders that touch a name or a number, and would be part of it.
-- @tparam table regions of `template.lexer_lua`
-- @tparam table faults diagnoses are added here
function M.touching(regions, faults)
  for _, region in ipairs(regions) do
    local what = region.kind == "place" and part_of(region)
    if what then
      faults[#faults + 1] = { pos = region.from, length = region.to - region.from + 1,
        message = ("{{%s}} would be part of %s"):format(region.name, what),
        hint = "a placeholder in code is a whole value; join strings with .. or put it into quotes" }
    end
  end
end

-- The place that Lua's message is about: it names the sample, or the token behind it.
local function place_of(regions, slot, near, from)
  for _, region in ipairs(regions) do
    local after = region.next
    if region.kind == "place" and ((slot and slot.pos == region.from)
      or (after and near ~= "" and after.text == near and after.from >= from)) then
      return region
    end
  end
end

local MOST_LOOKS <const> = 20 -- each parses the text up to there

-- A line's bytes from one place on where a token is found, as a word of its own if it is one.
local function find_token(line, token, from)
  while true do
    local at, to = line:find(token, from, true)
    if not at then return nil end
    local whole = not token:find "^[%w_]" or not (line:sub(at - 1, at - 1):find "[%w_]" or line:find("^[%w_]", to + 1))
    if whole then return at, to end
    from = at + 1
  end
end

-- Of the tokens of a line that look alike, the one that Lua stops at: a text that ends before it ends too early, with
-- it, it is wrong. Gives its number among them.
local function culprit(sampled, line, token)
  local from, stop = diagnostic.line_start(sampled, line), diagnostic.line_start(sampled, line + 1)
  for number = 1, MOST_LOOKS do
    local at, to = find_token(sampled, token, from)
    if not at or at >= stop then break end
    local _, message = M.parse(sampled:sub(1, to), "=template")
    if message and message:sub(-#token - 8) == " near '" .. token .. "'" then return number end
    from = at + 1
  end
  return 1
end

-- The offset in the template's line of the token with that number. Samples are numbers: placeholders hold none.
local function place_in(source, token, number)
  local plain, at, to = source:gsub("{{.-}}", function(place) return (" "):rep(#place) end), 0, 0
  for _ = 1, number do
    at, to = find_token(plain, token, to + 1)
    if not at then return source:find(token, 1, true) end
  end
  return at
end

--- Loads a sampled text.
-- @tparam string sampled
-- @tparam table by_number of `sample`
-- @tparam string text the template
-- @tparam table regions of `template.lexer_lua`
-- @treturn ?table a diagnosis of the template when Lua refuses the text
function M.load(sampled, by_number, text, regions)
  sampled = sampled:sub(lexer_lua.prologue(sampled) + 1)
  local chunk, message = M.parse(sampled, "=template")
  if chunk then return nil end
  message = message:match("^[^\n]*")
  local line, reason = message:match("^template:(%d+): (.*)$")
  if not line then return { pos = 1, message = message } end
  local near = reason:match("near '(.*)'$") or ""
  local slot, from = by_number[near], diagnostic.line_start(text, tonumber(line))
  local region = place_of(regions, slot, near, from)
  if region then
    local why, hint = misplaced(region)
    local length = region.to - region.from + 1
    return { pos = region.from, length = length, message = why, hint = hint or "Lua: " .. reason }
  end
  local _, _, _, source = diagnostic.locate(text, from)
  local at = near ~= "" and place_in(source, near, culprit(sampled, tonumber(line), near))
  at = at or source:find("%S") or 1
  if reason:find("near <eof>$") then at = #source + 1 end
  return { pos = from + at - 1, length = math.max(1, #near), message = reason }
end

return M
