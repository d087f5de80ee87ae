-- error: an __index that asks itself
local t = {} setmetatable(t, { __index = function(_, k) return t[k] end }) return t.x
