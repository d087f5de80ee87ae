-- time/memory/ok: a large text to parse
local s = "local x = 1 " return load((s):rep(600000))
