-- ok/memory: a chain of concatenations
local f, m = load("return " .. ("1 .. "):rep(100000) .. "1") assert(not f and m)
