-- instructions: an error object whose __tostring would loop is raised and caught for ever
local e = setmetatable({}, { __tostring = function() while true do end end }) while true do pcall(error, e) end
