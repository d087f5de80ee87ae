-- ok/error/crash: expressions with more than 256 constants
local parts = {} for i = 1, 300 do parts[i] = "x" .. i .. " = " .. i + 0.5 end local f = assert(load(table.concat(parts, "\n") .. "\nlocal t = { [false] = 1 } return t[x1 == x2], 1 | (2 or 3)")) pcall(f)
