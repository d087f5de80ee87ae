-- ok: garbage is no memory
local t = setmetatable({}, { __mode = "k" }) for i = 1, 20000 do t[{}] = ("x"):rep(100) .. i end
