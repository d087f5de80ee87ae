-- error: hidden behind a metamethod, it is not seen by Lua either
local mt = setmetatable({}, { __index = { __gc = print } }) assert(setmetatable({}, mt)) setmetatable({}, { __gc = true })
