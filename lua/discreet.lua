--- What is wrong, told to people outside: without the folders of this host, and without a script's own stumbling, which
-- are the log's. Knows nothing of who asks.
-- @module discreet
local M = {}

--- A message whose absolute paths are cut to their last name. Addresses of servers stay.
-- @tparam string message
-- @treturn string
function M.paths(message)
  return (" " .. message):gsub("([%s'\"(=@])/[^%s:'\")]*/([^%s/])", "%1%2"):sub(2)
end

return M
