-- error: raised by __close
local x <close> = setmetatable({}, { __close = function() error "closing" end })
