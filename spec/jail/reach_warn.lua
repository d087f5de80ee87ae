-- error 2: is not there
warn("@on")
