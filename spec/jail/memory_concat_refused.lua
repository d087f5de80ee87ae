-- memory: a buffer that is refused is not asked for twice
local s = ("x"):rep(9000000) pcall(function() return table.concat { s, s, s, s } end) local t = {} return t
