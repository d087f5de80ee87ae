-- instructions: pcall within pcall
local function f() pcall(f) while true do end end
f()
