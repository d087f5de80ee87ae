-- error: require cannot be yielded across
local co = coroutine.wrap(function() string.format("%s", setmetatable({}, { __tostring = function() coroutine.yield() end })) end) co()
