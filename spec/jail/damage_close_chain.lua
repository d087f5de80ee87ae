-- ok/crash/error/memory: a chain of coroutine.close
local function nest(n) local co co = coroutine.create(function() local x <close> = setmetatable({}, { __close = function() if n > 0 then coroutine.close(nest(n - 1)) end end }) coroutine.yield() end) coroutine.resume(co) return co end coroutine.close(nest(250))
