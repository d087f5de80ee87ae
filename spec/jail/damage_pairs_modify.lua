-- error/ok: keys that appear while a table is walked
local t = {} for i = 1, 100 do t[i] = i end for k in pairs(t) do t[k .. "x"] = 1 t[k] = nil end
