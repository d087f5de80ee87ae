-- instructions: next over a table that is always emptied
local t = {} while true do t[1] = 1 next(t) t[1] = nil end
