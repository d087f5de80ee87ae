-- ok: many coroutines, one after the other
local sum = 0 for i = 1, 2000 do sum = sum + coroutine.wrap(function(x) return x end)(i) end assert(sum == 2001000)
