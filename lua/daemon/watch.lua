--- Watches the files that a generation was made of, for `--watch`.
-- Owns the folders, and the moment of quiet after which a change counts: who saves ten files means one change.
-- @module daemon.watch
local clock = require "clock"

local M = {}
local Watch = {}
Watch.__index = Watch

local SETTLE, LONGEST = 0.2, 2 -- seconds of quiet; at most, when it never gets quiet

--- A watch of nothing yet.
-- @param supervisor see atelier.master
-- @treturn table watch
function M.new(supervisor)
  return setmetatable({ supervisor = supervisor, names = {} }, Watch)
end

--- Watches these folders, too, and one file in its folder. What is watched already stays so: no change is missed.
-- @tparam {string,...} folders
-- @tparam ?string path of the configuration
-- @treturn {string,...} what could not be watched, and why
function Watch:add(folders, path)
  local problems = {}
  for _, folder in ipairs(folders) do
    local number, message = self.supervisor:watch(folder)
    if number then
      self.names[number] = true -- any name
    else
      problems[#problems + 1] = message
    end
  end
  local folder, name = (path or "atelier.conf.lua"):match "^(.*)/([^/]+)$"
  local number, message = self.supervisor:watch(folder or ".")
  if not number then
    problems[#problems + 1] = message
  elseif not self.names[number] then
    self.names[number] = name or path or "atelier.conf.lua"
  end
  return problems
end

-- What editors write beside a file until it is saved.
local function is_scrap(name)
  return name:find "^%." or name:find "~$" or name:find "%.sw[a-z]$" or name:find "%.tmp$" or name:find "^%d+$"
end

--- Takes a change.
-- @tparam table event of atelier.master
function Watch:note(event)
  local wanted = self.names[event.watch]
  if not wanted or (wanted ~= true and wanted ~= event.name) or is_scrap(event.name) then
    return
  end
  local now = clock.now()
  self.since = self.since or now
  self.due = math.min(now + SETTLE, self.since + LONGEST)
end

--- Whether there were changes, and now it is quiet; asked once for each.
-- @treturn boolean
function Watch:is_settled()
  if self.due and clock.now() >= self.due then
    self.due, self.since = nil, nil
    return true
  end
  return false
end

return M
