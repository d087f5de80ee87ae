-- memory/instructions: coroutines that are kept
local t = {} while true do t[#t + 1] = coroutine.create(function() end) end
