-- ok: xpcall may be yielded across, body and handler
local co = coroutine.wrap(function() return xpcall(function() coroutine.yield(1) error "x" end, function() coroutine.yield(2) return 3 end) end)
assert(co() == 1 and co() == 2)
local a, b = co() assert(a == false and b == 3)
