-- instructions 2: a loop, in a pcall, in a coroutine
while true do coroutine.resume(coroutine.create(function() pcall(function() while true do end end) end)) end
