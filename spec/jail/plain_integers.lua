-- ok: 64-bit arithmetic
assert(math.maxinteger + 1 == math.mininteger and 7 // -2 == -4 and 7 % -2 == -1 and 1 << 63 == math.mininteger and 2^53 == 9007199254740992.0)
