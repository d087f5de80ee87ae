-- ok/error: an order that is none
local t = {} for i = 1, 500 do t[i] = i * 7919 % 500 end pcall(table.sort, t, function() return true end)
