-- error 2: is not there
os.setlocale("C")
