-- error 2: is not there
loadfile("/etc/passwd")
