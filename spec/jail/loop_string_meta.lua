-- instructions: the metatable of strings is the state's own
getmetatable("").__index = function() while true do end end return ("x").y
