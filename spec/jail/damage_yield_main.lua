-- error 2: a yield outside of a coroutine
coroutine.yield()
