-- time: match
local s = ("a"):rep(400)
return s:match(("a*"):rep(12) .. "b")
