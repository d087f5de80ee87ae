-- ok: metatables as they are known
local t = setmetatable({}, { __index = { a = 1 }, __metatable = "locked" }) assert(t.a == 1 and getmetatable(t) == "locked") assert(not pcall(setmetatable, t, {})) assert(setmetatable({}, nil)) assert(not pcall(setmetatable, 1, {})) assert(not pcall(setmetatable, {}, 1))
