-- ok: a goto over a variable that is closed
for i = 1, 3 do local x <close> = setmetatable({}, { __close = function() end }) if i < 3 then goto continue end ::continue:: end
