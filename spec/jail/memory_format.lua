-- memory: by %s
local s = ("x"):rep(1000000) return ("%s"):rep(90):format(table.unpack((function() local t = {} for i = 1, 90 do t[i] = s end return t end)()))
