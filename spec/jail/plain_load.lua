-- ok: load as it is known
assert(load "return 1"() == 1) local n = 0 assert(load(function() n = n + 1 return ({ "return ", "2" })[n] end)() == 2) local f, m = load("x =", "=here") assert(not f and m == "here:1: unexpected symbol near <eof>") assert(load("a = 1 return a", "x", "t", {})() == 1 and a == nil) assert(load("return ...", "x")(7) == 7)
