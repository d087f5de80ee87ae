-- time: caught does not help
local s = ("a"):rep(400)
while true do pcall(string.find, s, ("a-"):rep(12) .. "b") end
