-- ok/error/syntax/crash: many upvalues
local parts = {} for i = 1, 255 do parts[i] = "local a" .. i .. " = 1" end local f, m = load(table.concat(parts, " ") .. " return 1") assert(f or m)
