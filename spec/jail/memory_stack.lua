-- memory/error: a call without an end
local function f() return 1 + f() end f()
