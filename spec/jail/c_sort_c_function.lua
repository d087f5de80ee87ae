-- time/error/instructions/ok: sort by a C function
local t = {} for i = 1, 100000 do t[i] = i end table.sort(t, math.ult) table.sort(t, rawequal)
