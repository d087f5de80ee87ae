-- ok/crash/memory: an all-weak table that gets a new metatable
local t = setmetatable({}, { __mode = "kv" }) for i = 1, 5000 do t[{}] = {} if i % 100 == 0 then setmetatable(t, { __mode = ({ "k", "v", "kv" })[i // 100 % 3 + 1] }) end end
