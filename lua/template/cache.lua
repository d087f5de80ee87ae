--- Remembers what is made of a template's contents and a set of tools; what is unused for longest makes room.
-- Knows nothing of what it holds.
-- @module template.cache

local M = {}

local Cache = {}
Cache.__index = Cache

--- A cache.
-- @tparam integer limit things held
-- @tparam function make called with a template and tools → thing, or nil, message, code
-- @treturn table cache
function M.new(limit, make)
  return setmetatable({ limit = limit, make = make, held = {}, used = {}, count = 0, clock = 0 }, Cache)
end

local function drop_oldest(self)
  local oldest
  for key, when in next, self.used do
    if not oldest or when < self.used[oldest] then oldest = key end
  end
  self.held[oldest], self.used[oldest], self.count = nil, nil, self.count - 1
end

--- The thing for a template and tools, in any order: a held one, or a new one. Failures are not remembered.
-- @tparam table template its `hash` counts
-- @tparam table tools
-- @treturn[1] table thing
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @function cache:get
function Cache:get(template, tools)
  local sorted = table.move(tools, 1, #tools, 1, {})
  table.sort(sorted)
  local key = template.hash .. "\0" .. table.concat(sorted, "\0")
  local thing = self.held[key]
  if not thing then
    local message, code
    thing, message, code = self.make(template, tools)
    if not thing then return nil, message, code end
    self.held[key], self.count = thing, self.count + 1
  end
  self.clock = self.clock + 1
  self.used[key] = self.clock
  if self.count > self.limit then drop_oldest(self) end
  return thing
end

return M
