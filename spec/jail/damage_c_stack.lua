-- error/crash/memory: C calls in C calls
local function f(s) return s:gsub(".", f) end f "x"
