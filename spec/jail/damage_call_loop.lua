-- error/memory/time: __call in a circle
local a = {} setmetatable(a, { __call = a }) a()
