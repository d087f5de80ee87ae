-- time/instructions: counted for ever
local a = ("a"):rep(8000000) while true do utf8.len(a) end
