-- error/memory/crash: coroutines inside of coroutines
local function f() coroutine.wrap(f)() end
f()
