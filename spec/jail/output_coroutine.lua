-- output: from a coroutine
coroutine.wrap(function() while true do print "flood" end end)()
