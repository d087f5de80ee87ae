-- error/instructions: a chain of __index tables
local t = {} for _ = 1, 3000 do t = setmetatable({}, { __index = t }) end return t.x
