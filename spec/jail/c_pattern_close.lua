-- time: in __close
local s = ("a"):rep(400)
local x <close> = setmetatable({}, { __close = function() return s:find(("a-"):rep(12) .. "b") end })
