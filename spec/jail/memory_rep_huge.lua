-- memory 2: more than Lua itself can
return ("x"):rep(10000000000)
