-- ok/crash/memory/error: __concat that grows the stack
local function grow(n) if n > 0 then return grow(n - 1) + 0 end return 0 end
local mt = { __concat = function(a, b) grow(5000) return setmetatable({}, getmetatable(type(a) == "table" and a or b)) end }
for _ = 1, 50 do local t = setmetatable({}, mt) local _ = "a" .. "b" .. t .. "c" .. t .. "d" .. t end
