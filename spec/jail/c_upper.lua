-- time/instructions/memory: a long string, made anew and anew
local a = ("a"):rep(8000000) while true do a:upper() end
