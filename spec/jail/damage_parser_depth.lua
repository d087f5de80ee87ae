-- ok: a text that is nested too deep
local f, m = load(("{"):rep(100000)) assert(not f and m)
