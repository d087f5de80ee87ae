-- error 2: is not there
debug.getregistry()
