-- syntax 2: no expression
x = = 1
