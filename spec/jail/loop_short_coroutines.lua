-- instructions: each one too short for a count of 100
local function leaf() local x = 1 x = x + 1 return x end
while true do coroutine.wrap(leaf)() end
