-- time/instructions/memory/error: pack of a wide pad
while true do string.pack(("!16 i16 "):rep(1000), table.unpack({}, 1, 0)) end
