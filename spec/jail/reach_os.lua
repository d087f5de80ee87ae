-- ok: the clock is all of os
local n = 0 for name in pairs(os) do n = n + 1 assert(({ clock = 1, date = 1, difftime = 1, time = 1 })[name], name) end assert(n == 4 and os.time() > 0 and #os.date("!%Y-%m-%dT%H:%M:%SZ") == 20 and os.clock() >= 0 and os.date("*t").year > 2000 and os.time { year = 2024, month = 1, day = 1 } == 1704110400)
