-- ok: minus upon minus
local f, m = load("return " .. ("- "):rep(100000) .. "1") assert(not f and m)
