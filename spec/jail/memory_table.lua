-- memory 3: a table that grows
local t = {}
while true do t[#t + 1] = {} end
