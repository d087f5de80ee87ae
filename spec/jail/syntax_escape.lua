-- syntax 2: an escape that is none
x = "\q"
