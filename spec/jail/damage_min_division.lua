-- ok: the smallest by minus one
return math.mininteger // -1, math.mininteger % -1
