-- error: __newindex in a circle
local a = {} setmetatable(a, { __newindex = a }) a.x = 1
