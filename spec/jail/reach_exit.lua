-- error 2: is not there
os.exit(0)
