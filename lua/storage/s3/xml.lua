--- The little of XML that S3 speaks, over Expat: elements and their text. Entities and documents too deep are refused.
-- @module storage.s3.xml
local lxp = require "lxp"

local M = {}

local DEEPEST = 16

--- Reads a document.
-- @tparam string text
-- @treturn[1] table root element: `name`, and its children and texts in order
-- @treturn[2] nil where it is not well-formed
function M.read(text)
  local root, stack = nil, {}
  local parser = lxp.new {
    StartElement = function(parser, name)
      local element = { name = name:match "[^:]*$" }
      local parent = stack[#stack]
      if #stack >= DEEPEST then
        parser:stop()
      elseif parent then
        parent[#parent + 1] = element
      else
        root = element
      end
      stack[#stack + 1] = element
    end,
    EndElement = function()
      stack[#stack] = nil
    end,
    CharacterData = function(_, data)
      local parent = stack[#stack]
      parent[#parent + 1] = data
    end,
    StartDoctypeDecl = function(parser)
      parser:stop() -- no document of S3 has one; what it could declare is harm
    end,
  }
  local ok = parser:parse(text) and parser:parse()
  pcall(parser.close, parser)
  return ok and #stack == 0 and root or nil
end

--- All children of a name.
-- @tparam table element
-- @tparam string name
-- @treturn {table,...}
function M.all(element, name)
  local found = {}
  for _, child in ipairs(element) do
    if type(child) == "table" and child.name == name then
      found[#found + 1] = child
    end
  end
  return found
end

--- The text of the first child of a name.
-- @tparam table element
-- @tparam string name
-- @treturn string|nil
function M.text(element, name)
  local child = M.all(element, name)[1]
  if not child then
    return nil
  end
  local parts = {}
  for _, part in ipairs(child) do
    parts[#parts + 1] = type(part) == "string" and part or nil
  end
  return table.concat(parts)
end

--- Text as it stands in a document.
-- @tparam string text
-- @treturn string
function M.escape(text)
  return (text:gsub('[&<>"]', { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

return M
