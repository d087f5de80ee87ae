-- error 2: a long message is cut
error(("x"):rep(5000000))
