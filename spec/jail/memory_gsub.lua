-- memory: a result that grows
local s = ("x"):rep(10000) return s:gsub(".", ("y"):rep(10000))
