-- error 3: a nil upvalue
local missing
local function f() return missing.field end
f()
