-- error 2: is not there
io.open("/etc/passwd")
