--- Checks of option tables: a wrong call is the programmer's mistake and raises.
-- Knows nothing of files or keys.
local M = {}

--- Raises, blaming whoever called the caller, unless `options` has only the keys of `spec`, each of a
-- type that it names.
-- @tparam table|nil options
-- @tparam table spec key → types as `type()` names them, between spaces; "nil" among them makes the key optional
-- @tparam string operation named in the message
-- @tparam[opt=0] integer depth how many more functions stand between the one to blame and this one
-- @treturn table the options, or an empty table
function M.check(options, spec, operation, depth)
  local function refuse(form, ...) error(operation .. ": " .. form:format(...), 4 + (depth or 0)) end
  options = options or {}
  if type(options) ~= "table" then refuse("options must be a table, not %s", type(options)) end
  for key in pairs(options) do
    if not spec[key] then refuse("unknown option '%s'", tostring(key)) end
  end
  for key, types in pairs(spec) do
    local found = type(options[key])
    if not (" " .. types .. " "):find(" " .. found .. " ", 1, true) then
      refuse("option '%s' must be %s, not %s", key, (types:gsub(" ", " or ")), found)
    end
  end
  return options
end

return M
