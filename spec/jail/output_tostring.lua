-- output: by __tostring
local t = setmetatable({}, { __tostring = function() return ("x"):rep(60000) end }) print(t, t)
