-- ok: a large table, sorted
local t = {} for i = 1, 10000 do t[i] = i * 7919 % 10007 end table.sort(t, function(a, b) return a > b end) assert(t[1] >= t[2] and t[9999] >= t[10000])
