-- memory 2: one request beyond the limit
return ("x"):rep(1000000000)
