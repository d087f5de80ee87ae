-- instructions 2: a loop in the handler, where Lua runs no hook
xpcall(function() error "x" end, function() while true do end end)
