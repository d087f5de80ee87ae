-- instructions 2: endless tail calls use no stack
local function f() return f() end f()
