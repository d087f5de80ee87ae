-- ok: added later, it has no effect
local mt = {} local t = setmetatable({}, mt) mt.__gc = function() while true do end end t = nil for i = 1, 2000 do local _ = { i, tostring(i) } end
