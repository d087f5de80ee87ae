-- ok: leaves a trap on _G
setmetatable(_G, { __index = function() while true do end end, __newindex = function() while true do end end })
