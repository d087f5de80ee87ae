-- error 2: no finalizers
setmetatable({}, { __gc = function() while true do end end })
