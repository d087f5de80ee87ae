-- error 2: is not there
os.remove("/etc/passwd")
