-- ok: a metatable for _G is the script's own affair
setmetatable(_G, { __index = function(_, name) return name end }) assert(nothing == "nothing")
