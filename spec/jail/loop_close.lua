-- instructions 2: a loop in __close
do local x <close> = setmetatable({}, { __close = function() while true do end end }) end
