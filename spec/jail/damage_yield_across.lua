-- error/ok: a yield where none may be
local co = coroutine.create(function() table.sort({ 3, 2, 1 }, function() coroutine.yield() end) end) assert(not coroutine.resume(co))
