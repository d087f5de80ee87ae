-- time/error/instructions: table.remove moves what is not there
local t = setmetatable({}, { __len = function() return 1e15 | 0 end, __index = function() return 1 end, __newindex = function() end }) table.remove(t, 1)
