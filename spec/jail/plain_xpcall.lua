-- ok: xpcall as it is known
local a, b = xpcall(function(x) error(x .. "!", 0) end, function(m) return "<" .. m .. ">" end, "no") assert(a == false and b == "<no!>")
assert(select("#", xpcall(function(...) return ... end, print, 1, nil, 3)) == 4)
assert(not pcall(xpcall, print)) assert(not pcall(xpcall, print, 1))
