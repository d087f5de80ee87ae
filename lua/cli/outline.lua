--- The command line as plain data, read off its parsers: what the manual page and the completion are made from.
-- @module cli.outline
local M = {}

local function option_of(element)
  local takes = element._maxargs > 0
  local label = takes and (type(element._argname) == "table" and element._argname[1] or element._argname) or nil
  local names = { table.unpack(element._public_aliases) }
  return { names = names, takes = takes, argname = takes and (label or names[#names]:gsub("^%-+", ""):upper()) or nil,
    choices = element._choices, description = element._description or "", required = element._mincount > 0 }
end

local function argument_of(element)
  return { name = element._name, choices = element._choices, description = element._description or "" }
end

--- The outline of a parser.
-- @tparam table parser of argparse
-- @treturn table `name`, `description`, `usage`, `epilog`; `options`: {names, takes, argname, choices, description,
--   required}; `arguments`: {name, choices, description}; `commands`: outlines
function M.of(parser)
  local outline = { name = parser._name, description = parser._description or "", epilog = parser._epilog or "",
    usage = parser:get_usage(), options = {}, arguments = {}, commands = {} }
  for _, element in ipairs(parser._options) do
    if not element._hidden then
      outline.options[#outline.options + 1] = option_of(element)
    end
  end
  for _, element in ipairs(parser._arguments) do
    outline.arguments[#outline.arguments + 1] = argument_of(element)
  end
  for _, command in ipairs(parser._commands) do
    outline.commands[#outline.commands + 1] = M.of(command)
  end
  return outline
end

return M
