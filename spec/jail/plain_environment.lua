-- ok: an _ENV of its own
local print = print local _ENV = { x = 1 } x = x + 1 print(x)
