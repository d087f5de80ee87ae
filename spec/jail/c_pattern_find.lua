-- time 3: a pattern that backtracks for ever
local s = ("a"):rep(400)
return s:find(("a-"):rep(12) .. "b")
