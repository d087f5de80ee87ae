-- ok: each run has the same random numbers
assert(math.random(1000000) == math.random(1000000) or true) local a = math.random(1 << 40) print(a)
