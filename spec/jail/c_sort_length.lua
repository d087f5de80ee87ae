-- error/time/instructions: sort of a length that lies
table.sort(setmetatable({}, { __len = function() return 2147483646 end, __index = function() return 1 end, __newindex = function() end }))
