-- ok: an environment is a table, no more
local f = load("x = 1", "=x", "t", {}) f() assert(x == nil)
