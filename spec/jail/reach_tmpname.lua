-- error 2: is not there
os.tmpname()
