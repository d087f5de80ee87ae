-- error/instructions/crash: a handler that fails
local function h() error "again" end error(select(2, xpcall(error, h, "x")))
