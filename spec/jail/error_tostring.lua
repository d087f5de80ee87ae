-- error 2: its __tostring must not be called
error(setmetatable({}, { __tostring = function() while true do end end }))
