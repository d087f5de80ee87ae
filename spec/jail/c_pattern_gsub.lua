-- time: gsub
local s = ("a"):rep(400)
return s:gsub(("a-"):rep(12) .. "b", "")
