-- error/instructions: the handler fails and is handled
local function h() xpcall(error, h) end
while true do h() end
