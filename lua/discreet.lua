--- What is wrong, told to people outside: without the folders of this host, and without a script's own stumbling, which
-- are the log's. Knows nothing of who asks.
-- @module discreet
local M = {}

-- The address of a server. Without a host (file:///etc/x) it is only a path.
local ADDRESS = "%f[%w]%a[%w+.-]*://[^%s'\"/][^%s'\"<>,;)]*"

-- A path begins where no name, relative path or fraction goes on.
local PATH = "([^%w_.~/%%*\128-\255-])/[^%s:'\")]*/([^%s/])"

local function cut(text)
  return ((" " .. text):gsub(PATH, "%1%2"):sub(2))
end

--- A message whose absolute paths are cut to their last name. Addresses of servers stay whole.
-- @tparam string message
-- @treturn string
function M.paths(message)
  local parts, from = {}, 1
  repeat
    local first, last = message:find(ADDRESS, from)
    parts[#parts + 1] = cut(message:sub(from, first and first - 1))
    parts[#parts + 1] = first and message:sub(first, last)
    from = first and last + 1
  until not first
  return table.concat(parts)
end

return M
