--- The mark itself: what a placeholder looks like, in every kind of file.
--
--     {{name}}  {{name.field}}    the variable, or a field of a variable that is an object
--     {{!name}}                   the characters {{name}}, kept; {{!!name}} keeps {{!name}}, and so on
--
-- Anything else that begins with two braces is left alone: `{{1, 2}, {3, 4}}`, `{{x, y}}`, `{{ x }}`. A Lua table that
-- holds nothing but a table of one variable is written `{ {x} }` or `{{!x}}`. `{{!` is no Lua and no JSON outside of
-- strings, so the way of keeping a mark never takes a text from an author.
-- @module template.mark

local lpeg = require "lpeg"

local M = {}

local word = (lpeg.R("az", "AZ") + "_") * (lpeg.R("az", "AZ", "09") + "_") ^ 0

--- Dotted name of a variable.
M.path = word * (lpeg.P "." * word) ^ 0
--- A placeholder, capturing its path.
M.place = lpeg.P "{{" * lpeg.C(M.path) * lpeg.P "}}"
--- A kept mark, capturing what it stands for.
M.kept = lpeg.P "{{!" * (lpeg.C(lpeg.P "!" ^ 0 * M.path * lpeg.P "}}") / "{{%1")

local gap = lpeg.S " \t" ^ 0
local near = lpeg.P "{{" * gap * lpeg.C((lpeg.R("az", "AZ", "09") + lpeg.S "_.-") ^ 1) * gap * lpeg.P "}}"

--- Splits a piece of text at its marks.
-- @tparam string text
-- @tparam[opt=1] integer from
-- @tparam[opt] integer to inclusive
-- @treturn table list of strings and `{name, pos, length}`
-- @treturn table warnings: what looks like a placeholder and is none, as diagnoses
function M.split(text, from, to)
  from, to = from or 1, to or #text
  local pieces, warnings, plain, at = {}, {}, from, from
  local function flush(stop)
    if stop > plain then pieces[#pieces + 1] = text:sub(plain, stop - 1) end
  end
  while at <= to do
    at = text:find("{{", at, true)
    if not at or at > to then break end
    local name = lpeg.match(M.place, text, at)
    local keep = not name and lpeg.match(M.kept, text, at)
    if name then
      flush(at)
      pieces[#pieces + 1] = { name = name, pos = at, length = #name + 4 }
      at = at + #name + 4
      plain = at
    elseif keep then
      flush(at)
      pieces[#pieces + 1] = keep
      at = at + #keep + 1
      plain = at
    else
      local like = lpeg.match(near, text, at)
      if like then warnings[#warnings + 1] = M.lookalike(like, at) end
      at = at + 1
    end
  end
  flush(to + 1)
  return pieces, warnings
end

--- The diagnosis of an escape sequence that is none: the placeholder's fault if one begins within its reach.
-- @tparam string text
-- @tparam integer pos of the backslash
-- @tparam integer stop the last byte that counts
-- @tparam string reach pattern of what the sequence may take up, ending in `()`
-- @tparam string language whose sequence it is not
-- @treturn table diagnosis
function M.broken_escape(text, pos, stop, reach, language)
  for at = pos + 1, math.min(text:match(reach, pos), stop) do
    local name = lpeg.match(M.place, text, at)
    if name then
      return { pos = at, length = #name + 4, message = ("{{%s}} would be part of an escape sequence"):format(name),
        hint = M.IN_ESCAPE }
    end
  end
  return { pos = pos, length = 2, message = "invalid escape sequence",
    hint = language .. " knows no such escape; write \\\\ for a backslash" }
end

--- What to do about a placeholder that an escape sequence would swallow.
M.IN_ESCAPE = "write \\\\ for a backslash of the text, or keep the escape sequence apart from the placeholder"

--- The warning for a text that resembles a placeholder.
-- @tparam string name
-- @tparam integer pos
-- @treturn table diagnosis
function M.lookalike(name, pos)
  return { pos = pos, length = 2, message = ("this is no placeholder and is left as it is"),
    hint = ("a placeholder has no blanks and a plain name, like {{%s}}"):format((name:gsub("[^%w_.]", "_"))) }
end

return M
