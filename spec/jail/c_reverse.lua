-- time/instructions/memory: reversed for ever
local a = ("a"):rep(8000000) while true do a:reverse() end
