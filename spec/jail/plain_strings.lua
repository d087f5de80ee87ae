-- ok: strings, patterns, packing
assert(("a,b"):gsub(",", ";") == "a;b" and ("%5.2f|%q"):format(1.5, "x\n") == " 1.50|\"x\\\n\"" and string.unpack("<i4", string.pack("<i4", -2)) == -2 and utf8.char(0x20AC) == "\u{20AC}")
