-- error 2: is not there
os.execute("touch /tmp/atelier-left")
