-- ok: leaves traps for whoever comes next
print = nil string.rep = nil getmetatable("").__index = nil _G.poisoned = true math.random = function() while true do end end pairs = error tostring = error require = error
