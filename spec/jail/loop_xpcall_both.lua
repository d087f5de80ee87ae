-- instructions 2: function and handler take turns
local function f() while true do end end while true do xpcall(f, f) end
