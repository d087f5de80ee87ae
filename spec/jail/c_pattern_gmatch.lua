-- time: gmatch
local s = ("a"):rep(400)
for _ in s:gmatch(("a-"):rep(12) .. "b") do end
