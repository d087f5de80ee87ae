-- time/instructions: strings that are compared byte by byte
local a, b = ("a"):rep(8000000) .. "x", ("a"):rep(8000000) .. "y"
while true do local _ = a < b end
