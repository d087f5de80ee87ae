-- error 2: is not there
os.getenv("HOME")
