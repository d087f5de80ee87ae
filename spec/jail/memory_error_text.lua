-- memory/error: an error message as large as memory
error(("x"):rep(30000000) .. ("y"):rep(30000000))
