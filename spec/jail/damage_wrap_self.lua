-- error: a coroutine that resumes itself
local co co = coroutine.wrap(function() co() end) co()
