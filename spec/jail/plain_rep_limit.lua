-- ok: as much as fits
assert(#("x"):rep(10000000) == 10000000)
