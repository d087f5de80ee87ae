-- time/error/memory/instructions: table.concat over a length that lies
return table.concat(setmetatable({}, { __len = function() return math.maxinteger - 1 end, __index = function() return "" end }))
