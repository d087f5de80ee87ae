-- memory 2: the refusal is caught, and does not count for less
pcall(string.rep, "x", 1000000000) print "still here"
