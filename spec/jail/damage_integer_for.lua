-- ok: a loop at the edge of integers
for _ = math.maxinteger - 1, math.maxinteger do end for _ = math.mininteger, math.mininteger do end
