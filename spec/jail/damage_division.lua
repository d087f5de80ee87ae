-- error: integers by zero
return 1 // 0
