-- error/time/instructions: table.insert moves what is not there
local t = setmetatable({}, { __len = function() return math.maxinteger - 1 end }) table.insert(t, 1, 1)
