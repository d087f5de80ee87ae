-- ok/error/crash: an iterator of gmatch that is used after an error
local it = ("aaa"):gmatch("(a)(") pcall(it) pcall(it) local it2 = ("x"):rep(100):gmatch("%f[x]") for _ = 1, 10 do pcall(it2) end
