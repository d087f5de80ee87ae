-- ok: the mode is not the script's to choose
assert(select(2, load("\27", "=x", "b")):find "binary")
