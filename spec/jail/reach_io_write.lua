-- error 2: is not there
io.write("x")
