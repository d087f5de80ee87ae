-- error: none at all
load("return print", "=x", "t", nil)()
