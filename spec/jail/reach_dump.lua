-- error 2: is not there
string.dump(print)
