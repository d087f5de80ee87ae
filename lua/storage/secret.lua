--- The keys of a store, as they are now: those that come from files are read at each use, so that a running process
-- goes on with what an operator, or a machine that renews them, writes there.
-- @module storage.secret
local M = {}
local Secret = {}
Secret.__index = Secret

local function read(path)
  local file <close> = io.open(path, "rb")
  local text = file and file:read "a"
  return text and text:match "^(.-)%s*$"
end

--- The values by name. A file that is away, or empty, for a moment leaves what was.
-- @treturn table
function Secret:values()
  for name, path in pairs(self.files) do
    local text = read(path)
    if text and text ~= "" then
      self.known[name] = text
    end
  end
  return self.known
end

--- What tells these values from others.
-- @tparam[opt] boolean fresh read the files first, rather than go by what was read last
-- @treturn string
function Secret:mark(fresh)
  local values, parts = fresh and self:values() or self.known, {}
  for i, name in ipairs(self.names) do
    parts[i] = values[name] or ""
  end
  return table.concat(parts, "\0")
end

--- Secrets of the configuration.
-- @tparam table config values by name, and `secret_files`: the path of those that come from files
-- @tparam {string,...} names
-- @treturn table secret
function M.new(config, names)
  local self = setmetatable({ names = names, known = {}, files = {} }, Secret)
  for _, name in ipairs(names) do
    self.known[name] = config[name]
    self.files[name] = (config.secret_files or {})[name]
  end
  return self
end

return M
