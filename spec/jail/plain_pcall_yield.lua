-- ok: pcall may be yielded across
local co = coroutine.wrap(function() return pcall(function() coroutine.yield(1) error("x", 0) end) end) assert(co() == 1) local a, b = co() assert(a == false and b == "x")
