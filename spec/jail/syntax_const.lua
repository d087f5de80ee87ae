-- syntax 3: an assignment to a constant
local x <const> = 1
x = 2
