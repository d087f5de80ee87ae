-- syntax 2: a string without an end
x = "abc
