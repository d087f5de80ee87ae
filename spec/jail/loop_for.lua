-- instructions 2: a numeric loop that is as good as endless
for _ = 1, math.maxinteger do end
