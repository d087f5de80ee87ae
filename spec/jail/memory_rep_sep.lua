-- memory: by the separator
return ("x"):rep(1000, ("y"):rep(1000000))
