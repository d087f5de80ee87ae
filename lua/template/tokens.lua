--- What a Lua text is made of, seen by a second pair of eyes: a small lexer that shares nothing with the renderer's
-- own, so that a check does not repeat the mistake that it is to find. For texts that Lua has taken.
-- Tells a text's skeleton, and which siblings it asks for.
-- @module template.tokens

local lpeg = require "lpeg"

local M = {}

local P, S, R, C, Cc, Cp, Cs, Ct = lpeg.P, lpeg.S, lpeg.R, lpeg.C, lpeg.Cc, lpeg.Cp, lpeg.Cs, lpeg.Ct

local blank = S " \t\v\f\r\n" ^ 1
local opening = P "[" * lpeg.Cg(P "=" ^ 0, "level") * "["
local closing = lpeg.Cmt(P "]" * C(P "=" ^ 0) * "]" * lpeg.Cb "level", function(_, _, a, b) return a == b end)
local long = (opening * (1 - closing) ^ 0 * closing) / 0
local comment = P "--" * (long + (1 - S "\r\n") ^ 0)
local function quoted(quote)
  return P(quote) * (P "\\" * (P "\r\n" + P "\n\r" + P(1)) + (1 - S("\\" .. quote))) ^ 0 * P(quote)
end
local literal = quoted '"' + quoted "'" + long
local number = #(R "09" + P "." * R "09")
  * (P "0" * S "xX" * (S "pP" * S "+-" ^ -1 + R("09", "af", "AF") + ".") ^ 0
    + (S "eE" * S "+-" ^ -1 + R "09" + ".") ^ 1)
local word = (R("az", "AZ") + "_") * (R("az", "AZ", "09") + "_") ^ 0

local skeleton = Cs((
  (blank + comment) / " "
  + literal / "S"
  + word
  + number / "N"
  + 1) ^ 0)

-- What Lua's loader passes over.
local function body(text)
  local at = text:sub(1, 3) == "\xEF\xBB\xBF" and 4 or 1
  if text:sub(at, at) == "#" then at = text:find("\n", at, true) or #text + 1 end
  return at
end

--- The text with every string replaced by S, every number by N, blanks and comments by one blank: two renderings of one
-- file with texts of the same shape have the same skeleton, or a value has become code.
-- @tparam string text
-- @treturn string
function M.skeleton(text)
  return (lpeg.match(skeleton, text, body(text)):gsub(" +", " "))
end

local token = Ct(((blank + comment) / 0 + Ct(Cp() * (Cc "string" * C(literal) + Cc "word" * C(word)
  + Cc "other" * C(number + P "..." + ".." + "::" + 1)))) ^ 0)

local OPENS = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }
local ASKS = { require = true, dofile = true }

-- A call of require or dofile with one literal: `require "x"` or `require("x")`.
local function asked(list, i)
  local before, after = list[i - 1], list[i + 1]
  if before and (before[3] == "." or before[3] == ":" or before[3] == "function") then return nil end
  if after and after[3] == "(" and list[i + 3] and list[i + 3][3] == ")" then after = list[i + 2] end
  if not after or after[2] ~= "string" then return nil end
  local value = load("return " .. after[3], "=literal", "t", {})
  return value and value()
end

--- The siblings that a text asks for by a literal name.
-- @tparam string text
-- @treturn table list of `{how, name, pos, late}`: `how` is "require" or "dofile"; `late`: inside of a function
function M.requests(text)
  local list, requests, blocks, functions = lpeg.match(token, text, body(text)), {}, {}, 0
  for i, item in ipairs(list) do
    local what = item[2] == "word" and item[3]
    if OPENS[what] then
      blocks[#blocks + 1] = what
      functions = functions + (what == "function" and 1 or 0)
    elseif CLOSES[what] then
      functions = functions - (table.remove(blocks) == "function" and 1 or 0)
    elseif ASKS[what] then
      local name = asked(list, i)
      if name then requests[#requests + 1] = { how = what, name = name, pos = item[1], late = functions > 0 } end
    end
  end
  return requests
end

return M
