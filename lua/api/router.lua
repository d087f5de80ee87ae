--- Finds the route of a method and a path. A path without parameters is one look into a table.
-- @module api.router
local M = {}

local Router = {}
Router.__index = Router

-- Segments that are a {name} match any one segment; the names are kept in order.
local function compile(path)
  local names = {}
  local pattern = path:gsub("[%-%.%+%*%?%^%$%%%(%)%[%]]", "%%%0"):gsub("{([%w_]+)}", function(name)
    names[#names + 1] = name
    return "([^/]+)"
  end)
  return { path = path, pattern = "^" .. pattern .. "$", names = names, methods = {} }
end

local function add(self, route)
  local place = self.by_template[route.path]
  if not place then
    place = compile(route.path)
    self.by_template[route.path] = place
    if #place.names == 0 then
      self.fixed[route.path] = place
    else
      self.patterns[#self.patterns + 1] = place
    end
  end
  if place.methods[route.method] then
    error(("route %s %s is there twice"):format(route.method, route.path), 0)
  end
  place.methods[route.method] = route
end

local function allow_of(place)
  local list = { "OPTIONS" }
  for method in pairs(place.methods) do
    list[#list + 1] = method
  end
  table.sort(list)
  return table.concat(list, ", ")
end

--- Builds a router.
-- @tparam {table,...} routes `method`, `path`, as in "/files/{id}"; a GET route answers HEAD too
-- @treturn table router
function M.new(routes)
  local self = setmetatable({ fixed = {}, patterns = {}, by_template = {} }, Router)
  for _, route in ipairs(routes) do
    add(self, route)
  end
  for _, place in pairs(self.by_template) do
    place.methods.HEAD = place.methods.HEAD or place.methods.GET
    place.allow = allow_of(place)
  end
  return self
end

--- Finds what a path names.
-- @tparam string path decoded
-- @treturn[1] table place: `methods` (method → route) and `allow`, the value of the header
-- @treturn[1] ?table the path's parameters by name
-- @treturn[2] nil when there is no such path
function Router:find(path)
  local place = self.fixed[path]
  if place then
    return place
  end
  for _, candidate in ipairs(self.patterns) do
    local found = table.pack(path:match(candidate.pattern))
    if found[1] then
      local values = {}
      for i, name in ipairs(candidate.names) do
        values[name] = found[i]
      end
      return candidate, values
    end
  end
end

return M
