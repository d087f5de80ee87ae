-- error/memory: a message out of a deep stack
local function f() f() local x = 1 end f()
