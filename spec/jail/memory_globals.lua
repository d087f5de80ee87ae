-- memory: names without an end
local i = 0 while true do i = i + 1 _G["name" .. i] = i end
