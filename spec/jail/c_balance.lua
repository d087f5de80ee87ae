-- time: %b over many openings
local s = ("("):rep(300000)
return s:find("%b()" )
