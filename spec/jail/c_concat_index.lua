-- instructions/time/memory: the same with many pieces
return table.concat(setmetatable({}, { __len = function() return 1e15 | 0 end, __index = function() return "x" end }))
