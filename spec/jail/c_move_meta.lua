-- time/instructions: table.move over metamethods
local t = setmetatable({}, { __index = function() return nil end, __newindex = function() end }) return table.move(t, 1, 1e15 | 0, 2)
