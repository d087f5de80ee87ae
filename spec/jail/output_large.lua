-- output 2: prints a megabyte
print(("x"):rep(1000000))
