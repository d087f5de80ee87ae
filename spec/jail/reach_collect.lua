-- error 2: is not there
collectgarbage("stop")
